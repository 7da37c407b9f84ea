"""``ebt fit``: train a model from a configuration, or resume a run."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import nullcontext
from dataclasses import asdict

from rich.console import Console

from ebt.cli.checkpoints import Checkpoints, Stopped, check_hyperparameters, mismatch
from ebt.cli.gradients import ALONE, check
from ebt.cli.machine import out_of_memory
from ebt.cli.progress import Report, parameters, results_table, second_order, statistics
from ebt.cli.run import Run
from ebt.cli.terminal import print_table, say
from ebt.cli.training import TrainingCLI, configure
from ebt.errors import InputError
from ebt.problems.folder import find_folder
from ebt.training.loop import quiet
from ebt.training.model_task import ModelTask
from ebt.training.second_order import not_twice, once_only


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    configs, rest = [f"--config={name}" for name in args.config], args.keys
    if args.help_all or any(argument in ("--print_config", "--model.help", "--data.help") for argument in rest):
        configure([*configs, *(["--help"] if args.help_all else []), *rest])
        return 0
    if args.check_gradients:
        _check_alone(args)
    run = None
    if args.resume:
        run = Run.existing(args.out, args.name)
        configs = configs or run.arguments()
    elif not args.check_gradients:
        run = Run.new(args.out, args.name, args.config)
    if not configs and not any(argument.startswith("--model") for argument in rest):
        raise InputError("--config is missing: give a configuration, for example language/ebt.")
    seed = [] if args.seed is None else [f"--seed_everything={args.seed}"]
    with quiet():
        if run is None or args.check_gradients:
            return check(configure([*configs, *rest, *seed, *ALONE]), run)
        cli = configure([*configs, *rest, *seed], run)
        if args.compile:
            _compile(cli)
        return _train(cli, run, args.resume)


def _check_alone(args: argparse.Namespace) -> None:
    """Refuse options that have no effect with --check-gradients."""
    if args.compile:
        raise InputError("--check-gradients does not compile: leave --compile out.")
    if not args.resume and (args.name or args.out):
        raise InputError("--check-gradients writes no run: leave --name and --out out, or give --resume to check that run.")


def _compile(cli: TrainingCLI) -> None:
    if not isinstance(cli.model, ModelTask):
        raise InputError(f"--compile supports only the library's models, not {type(cli.model).__name__}: leave it out.")
    cli.model.compiles = True


def _train(cli: TrainingCLI, run: Run, resume: bool) -> int:
    check_hyperparameters(cli.model, cli.datamodule)
    cli.model.check_strategy(cli.trainer.strategy)
    cli.model.choose_second_order(cli.trainer)  # refuses what does not fit together
    if (pretrained := getattr(getattr(cli.model, "network", None), "pretrained", None)) is not None:
        find_folder(pretrained)  # before the data are prepared, which may take minutes
    if hasattr(cli.datamodule, "prepare"):
        cli.datamodule.prepare()  # check the data before the run folder is created
    kept = cli.trainer.is_global_zero and not cli.trainer.fast_dev_run
    with run.alone() if kept else nullcontext():
        if kept and resume:
            cli.callback(Checkpoints).config = cli.saved()
        elif kept:
            run.make(cli.saved())
        if code := _fit(cli, run, resume):
            return code
        if not cli.trainer.fast_dev_run:
            _finish(cli, run)
    return 0


def _fit(cli: TrainingCLI, run: Run, resume: bool) -> int:
    """Train, and return the exit code."""
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=run.last if resume else None, weights_only=True)
    except (Stopped, SystemExit) as stop:  # SystemExit: Lightning's answer to a second Ctrl-C
        left = f"Stopped; {run.last} is intact. To continue: {run.again}"
        print(left if run.last.exists() else "Stopped before the first checkpoint: start again.", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except ValueError as error:
        if "val_check_interval" in str(error):  # longer than an epoch, with trainer.check_val_every_n_epoch
            raise InputError(str(error).strip()) from error
        if not isinstance(error, InputError) or not run.last.exists():
            raise
        raise InputError(f"{error} Then continue: {run.again}") from error
    except (RuntimeError, MemoryError) as error:
        if told := out_of_memory(error):
            raise told from error
        if isinstance(error, RuntimeError) and not_twice(error):
            raise once_only(error) from error
        if resume and (told := mismatch(error, run.last, cli.model)):
            raise told from error
        raise
    return 0


def _finish(cli: TrainingCLI, run: Run) -> None:
    """Finish a run that has all of its updates, even if it had them before."""
    checkpoints, trainer = cli.callback(Checkpoints), cli.trainer
    if not checkpoints.began and run.read_results().get("updates") == trainer.global_step:
        if trainer.is_global_zero:
            print(f"{run.folder} has {trainer.global_step} updates already: raise trainer.max_steps to train it further.")
        return
    if not checkpoints.began:  # it was stopped between its last update and its results
        trainer.validate(cli.model, cli.datamodule, verbose=False)
        if not checkpoints.best:
            checkpoints.export(trainer, cli.model)
    if trainer.is_global_zero:
        _results(cli, run)


def _results(cli: TrainingCLI, run: Run) -> None:
    """Print the results and write them to results.json."""
    best, report, trainer = cli.callback(Checkpoints).best, cli.callback(Report), cli.trainer
    loss, way = trainer.callback_metrics.get("train/loss"), second_order(cli.model)
    run.add_results(
        {
            "task": cli.model.kind_name,
            "parameters": parameters(cli.model),
            "updates": trainer.global_step,
            "seconds": None if report is None else round(report.seconds, 1),
            "device": str(trainer.strategy.root_device),
            "second_order": None if way is None else asdict(way),
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
