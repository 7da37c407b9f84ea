"""``ebt fit``: train a model by a configuration; continue a run."""

from __future__ import annotations

import signal
import sys
from typing import Any

from rich.console import Console

from ebt.cli.terminal import Options, count_from, print_table
from ebt.errors import InputError

_EPILOG = """
every key of a configuration is an option, too, and overrides it:
  ebt fit --config language/ebt --model.recipe.max_steps 4 --trainer.max_steps 500
  ebt fit --help-all                     all of them
  ebt fit --model.help LanguageTask      those of a task (SudokuTask, or my_module.MyTask of your own)
  ebt fit --data.help TextDataModule     those of a data module (SudokuDataModule, ...)
  ebt fit --config FILE --print_config   the whole configuration, with all defaults

a run folder holds config.yaml, checkpoints/ (last.ckpt, best.ckpt), model/ (the best model, for `--checkpoint` of the other
commands and for Hugging Face), logs/ and results.json. To continue one:
  ebt fit --resume --name text
"""


def _options() -> Options:
    options = Options(
        "fit",
        "Train a model. Ctrl-C and SIGTERM stop after the update that runs, with a checkpoint to resume from.",
        "ebt fit --config language/ebt --name text",
    )
    options.epilog = f"{options.epilog}\n{_EPILOG}"
    options.usage = "ebt fit --config NAME [--name NAME | --out DIR] [--resume] [--seed N] [--KEY VALUE ...]"
    options.add_argument(
        "-c",
        "--config",
        action="append",
        default=[],
        metavar="NAME",
        help="configuration of the library by name, or a YAML file; a later one overrides",
    )
    options.add_argument("--name", help="of the run: its folder is runs/NAME (default: after the configuration)")
    options.add_argument("--out", metavar="DIR", help="run folder")
    options.add_argument("--resume", action="store_true", help="continue a run from its last checkpoint, as if never stopped")
    options.add_argument("--seed", type=count_from(0), metavar="N", help="of weights, data and all random draws (default: 0)")
    options.add_argument("--compile", action="store_true", help="compile what can be; minutes at first, for long runs")
    options.add_argument("--help-all", action="store_true", help="list every key")
    return options


def main(argv: list[str]) -> int:
    """Run the command."""
    args, rest = _options().parse_known_args(argv)
    from ebt.cli.run import Run
    from ebt.cli.training import configure
    from ebt.training.loop import quiet

    configs = [f"--config={name}" for name in args.config]
    if args.help_all or any(argument in ("--print_config", "--model.help", "--data.help") for argument in rest):
        configure([*configs, *(["--help"] if args.help_all else []), *rest])
        return 0
    run = Run.existing(args.out, args.name) if args.resume else Run.new(args.out, args.name, args.config)
    if not configs and args.resume:
        configs = run.arguments()
    if not configs and not any(argument.startswith("--model") for argument in rest):
        raise InputError("--config is missing: give a configuration such as language/ebt.")
    seed = [] if args.seed is None else [f"--seed_everything={args.seed}"]
    with quiet():
        cli = configure([*configs, *rest, *seed], run)
        if args.compile:
            _compile(cli)
        return _train(cli, run, args.resume)


def _compile(cli: Any) -> None:
    from ebt.problems.sudoku.task import SudokuTask
    from ebt.training.compiling import NOTHING
    from ebt.training.model_task import ModelTask

    if isinstance(cli.model, SudokuTask) and cli.model.network.kind == "ebt":
        raise InputError(NOTHING)
    if not isinstance(cli.model, ModelTask):
        raise InputError(f"--compile is for the library's own models, not for {type(cli.model).__name__}: leave it out.")
    cli.model.compiles = True


def _train(cli: Any, run: Any, resume: bool) -> int:
    from ebt.cli.checkpoints import Stopped, check_hyperparameters
    from ebt.cli.memory import out_of_memory

    check_hyperparameters(cli.model, cli.datamodule)
    if hasattr(cli.datamodule, "prepare"):
        cli.datamodule.prepare()  # whatever is wrong with the data comes to light before the folder is made
    kept = cli.trainer.is_global_zero and not cli.trainer.fast_dev_run
    if kept:
        run.make(cli.saved())
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=run.last if resume else None, weights_only=True)
    except (Stopped, SystemExit) as stop:  # SystemExit: Lightning's answer to a second Ctrl-C
        print(_farewell(run), file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except InputError as error:  # such as a disk that is full
        if not run.last.is_file():
            raise
        raise InputError(f"{error} Then continue: ebt fit --resume --out {run.folder}") from error
    except (RuntimeError, MemoryError) as error:
        if told := out_of_memory(error):
            raise told from error
        if resume and "loading state_dict" in str(error):
            raise InputError(f"{run.last} does not fit this model: resume without changing the network.") from error
        raise
    if kept:
        _finish(cli, run)
    return 0


def _farewell(run: Any) -> str:
    if not run.last.is_file():
        return "Stopped before the first checkpoint: start again."
    return f"Stopped; {run.last} is intact. To continue: ebt fit --resume --out {run.folder}"


def _finish(cli: Any, run: Any) -> None:
    """Results into the terminal and into results.json."""
    from ebt.cli.checkpoints import Checkpoints
    from ebt.cli.progress import Report, parameters, results_table, statistics

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
    console.print(f"run: {run.folder}  {kept}  results: {run.results}", highlight=False, soft_wrap=True)
