"""``ebt fit``: train a model from a configuration, or resume a run."""

from __future__ import annotations

import argparse
import signal
import sys

from rich.console import Console

from ebt.cli.checkpoints import Checkpoints, Stopped, check_hyperparameters
from ebt.cli.machine import out_of_memory
from ebt.cli.progress import Report, parameters, results_table, statistics
from ebt.cli.run import Run
from ebt.cli.terminal import print_table, say
from ebt.cli.training import TrainingCLI, configure
from ebt.errors import InputError
from ebt.problems.sudoku.task import SudokuTask
from ebt.training.compiling import NOTHING
from ebt.training.loop import quiet
from ebt.training.model_task import ModelTask


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    configs, rest = [f"--config={name}" for name in args.config], args.keys
    if args.help_all or any(argument in ("--print_config", "--model.help", "--data.help") for argument in rest):
        configure([*configs, *(["--help"] if args.help_all else []), *rest])
        return 0
    run = Run.existing(args.out, args.name) if args.resume else Run.new(args.out, args.name, args.config)
    if not configs and args.resume:
        configs = run.arguments()
    if not configs and not any(argument.startswith("--model") for argument in rest):
        raise InputError("--config is missing: give a configuration, for example language/ebt.")
    seed = [] if args.seed is None else [f"--seed_everything={args.seed}"]
    with quiet():
        cli = configure([*configs, *rest, *seed], run)
        if args.compile:
            _compile(cli)
        return _train(cli, run, args.resume)


def _compile(cli: TrainingCLI) -> None:
    if isinstance(cli.model, SudokuTask) and cli.model.network.kind == "ebt":
        raise InputError(NOTHING)
    if not isinstance(cli.model, ModelTask):
        raise InputError(f"--compile supports only the library's models, not {type(cli.model).__name__}: leave it out.")
    cli.model.compiles = True


def _train(cli: TrainingCLI, run: Run, resume: bool) -> int:
    check_hyperparameters(cli.model, cli.datamodule)
    cli.model.check_strategy(cli.trainer.strategy)
    if hasattr(cli.datamodule, "prepare"):
        cli.datamodule.prepare()  # check the data before the run folder is created
    kept = cli.trainer.is_global_zero and not cli.trainer.fast_dev_run
    if kept:
        run.make(cli.saved())
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=run.last if resume else None, weights_only=True)
    except (Stopped, SystemExit) as stop:  # SystemExit: Lightning's answer to a second Ctrl-C
        left = f"Stopped; {run.last} is intact. To continue: ebt fit --resume --out {run.folder}"
        print(left if run.last.exists() else "Stopped before the first checkpoint: start again.", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except InputError as error:  # for example a full disk
        if not run.last.exists():
            raise
        raise InputError(f"{error} Then continue: ebt fit --resume --out {run.folder}") from error
    except (RuntimeError, MemoryError) as error:
        if told := out_of_memory(error):
            raise told from error
        if resume and "loading state_dict" in str(error):
            raise InputError(f"{run.last} does not match this model: resume without changing the network.") from error
        raise
    if kept:
        _finish(cli, run)
    return 0


def _finish(cli: TrainingCLI, run: Run) -> None:
    """Print the results and write them to results.json."""
    best, report, trainer = cli.callback(Checkpoints).best, cli.callback(Report), cli.trainer
    loss = trainer.callback_metrics.get("train/loss")
    run.add_results(
        {
            "task": type(cli.model).__name__,
            "parameters": parameters(cli.model),
            "updates": trainer.global_step,
            "seconds": None if report is None else round(report.seconds, 1),
            "device": str(trainer.strategy.root_device),
            "seed": cli.config["seed_everything"],
            "data": statistics(trainer),
            "best": best,
            "last": {} if loss is None else {"update": trainer.global_step, "metrics": {"train/loss": loss.item()}},
        }
    )
    console = Console()
    if best:
        title = f"validation, best at update {best['update']}"
        print_table(console, title, results_table(best["metrics"], cli.model.steps))
    kept = f"model: {run.model}" if run.model.is_dir() else f"weights: {run.best if run.best.is_file() else run.last}"
    say(console, f"run: {run.folder}  {kept}  results: {run.results}")
