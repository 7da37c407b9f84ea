"""``ebt validate`` and ``ebt test``: evaluate the best weights of a run."""

from __future__ import annotations

from rich.console import Console

from ebt.cli.terminal import Options

_STAGES = {"validate": "validation", "test": "test"}


def main(argv: list[str]) -> int:
    """Run ``ebt validate``."""
    return evaluate("validate", argv)


def _options(command: str) -> Options:
    options = Options(
        command,
        f"Evaluate the best weights of a run on its {_STAGES[command]} data, at several numbers of thinking steps.",
        f"ebt {command} --checkpoint runs/text --model.validation_steps [1,2,4,8,16]",
    )
    options.usage = f"ebt {command} --checkpoint RUN [--config FILE] [--KEY VALUE ...]"
    options.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="run folder of `ebt fit`, or a file in its checkpoints/"
    )
    options.add_argument(
        "-c", "--config", action="append", default=[], metavar="FILE", help="overrides the run's configuration"
    )
    return options


def evaluate(command: str, argv: list[str]) -> int:
    """Evaluate a run; the results go into the terminal and the run's results.json."""
    args, rest = _options(command).parse_known_args(argv)
    from ebt.cli.progress import results_table
    from ebt.cli.run import Run
    from ebt.cli.training import configure

    run, file = Run.of(args.checkpoint)
    cli = configure([f"--config={config}" for config in (run.config, *args.config)] + rest)
    stage = getattr(cli.trainer, command)
    stage(cli.model, cli.datamodule, ckpt_path=file, verbose=False, weights_only=True)
    metrics = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    run.add_results({_STAGES[command]: {"checkpoint": file.name, "metrics": metrics}})
    console = Console()
    console.print(results_table(metrics, f"{_STAGES[command]}, {file.name}", cli.model.steps))
    console.print(f"results: {run.results}", highlight=False, soft_wrap=True)
    return 0
