"""``ebt validate`` and ``ebt test``: evaluate the best weights of a run."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from ebt.cli.run import RECIPE
from ebt.cli.terminal import Options, print_table
from ebt.errors import InputError

_STAGES = {"validate": "validation", "test": "test"}


def main(argv: list[str]) -> int:
    """Run ``ebt validate``."""
    return evaluate("validate", argv)


def _options(command: str) -> Options:
    options = Options(
        command,
        f"Evaluate the best weights of a run on its {_STAGES[command]} data, or the language model of a folder on any text, at "
        "several numbers of thinking steps.",
        f"ebt {command} --checkpoint runs/text --model.validation_steps [1,2,4,8,16]",
    )
    options.usage = f"ebt {command} --checkpoint RUN [--config FILE] [--KEY VALUE ...]"
    options.add_argument(
        "--checkpoint",
        required=True,
        metavar="RUN",
        help="run folder of `ebt fit`, or a file in its checkpoints/, or the folder of a language model (with --data)",
    )
    options.add_argument("--data", metavar="SOURCE", help="with a model folder: the text to evaluate it on, all of it")
    options.add_argument(
        "-c", "--config", action="append", default=[], metavar="FILE", help="overrides the run's configuration"
    )
    return options


def _around(folder: str, source: str | None) -> list[str]:
    """The configuration of a language model's folder: the model, its own recipe if it has one, and its tokenizer.

    Raises:
        InputError: no language model, or no data.
    """
    from ebt.problems.folder import load_folder

    if source is None:
        raise InputError(f"{folder} is a model folder, which does not know its data: name them with --data.")
    model = load_folder(folder, ("ebt", "ebt_transformer_pp"))
    config = model.config
    recipe = Path(folder) / RECIPE
    steps = [f"--model.init_args.steps={model.thinking.steps}"] if config.model_type == "ebt" else []
    start = [f"--model.init_args.recipe.start_std={model.thinking.start_std}"] if config.model_type == "ebt" else []
    return [
        *([f"--config={recipe}"] if recipe.is_file() else ["--model=LanguageTask", "--data=TextDataModule", *start]),
        *steps,
        f"--model.init_args.network.pretrained={folder}",
        f"--data.init_args.tokenizer={folder}",
        f"--data.init_args.context_length={config.context_length}",
        *(f"--data.init_args.{name}={source}" for name in ("source", "validation_source", "test_source")),
        "--data.init_args.fractions=[1.0, 0.0, 0.0]",
    ]


def evaluate(command: str, argv: list[str]) -> int:
    """Evaluate a run; the results go into the terminal and the run's results.json."""
    args, rest = _options(command).parse_known_args(argv)
    from ebt.cli.progress import results_table
    from ebt.cli.run import Run
    from ebt.cli.training import configure
    from ebt.training.loop import quiet

    if (Path(args.checkpoint) / "config.json").is_file():
        run, file = Run(Path(args.checkpoint)), None
        own = _around(args.checkpoint, args.data)
    elif args.data is not None:
        raise InputError("--data is for model folders; a run has its own data: override --data.source instead.")
    else:
        run, file = Run.of(args.checkpoint)
        own = run.arguments()
    with quiet(".*callbacks used to create the checkpoint need to be provided.*"):  # an evaluation has no use for them
        cli = configure([*own, *(f"--config={config}" for config in args.config), *rest])
        getattr(cli.trainer, command)(cli.model, cli.datamodule, ckpt_path=file, verbose=False, weights_only=True)
    metrics = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    name = run.folder.name if file is None else file.name
    run.add_results({_STAGES[command]: {"checkpoint": name, "metrics": metrics}})
    console = Console()
    print_table(console, f"{_STAGES[command]}, {name}", results_table(metrics, cli.model.steps))
    console.print(f"results: {run.results}", highlight=False, soft_wrap=True)
    return 0
