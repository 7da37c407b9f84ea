"""``ebt validate`` and ``ebt test``: evaluate the best weights of a run, or a language model on any text."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from ebt.cli.checkpoints import mismatch
from ebt.cli.options import STAGES
from ebt.cli.progress import results_table
from ebt.cli.run import RECIPE, Run
from ebt.cli.terminal import print_table, say
from ebt.cli.training import configure
from ebt.errors import InputError
from ebt.problems.folder import load_folder
from ebt.problems.registry import problem_of
from ebt.shelf import located
from ebt.training.loop import quiet


def _around(folder: str, source: str | None) -> list[str]:
    """Return the options that configure a language model from its folder, with its recipe and tokenizer.

    Raises:
        InputError: The folder has no language model, or no data is given.
    """
    model = load_folder(folder)
    config = model.config
    if problem_of(config.model_type).name != "language":
        raise InputError(f"{folder} is a model folder, of which only language models are validated: use `ebt think`.")
    if source is None:
        raise InputError(f"{folder} is a model folder, which has no data: give a text with --data.")
    recipe = Path(folder) / RECIPE
    how = model.thinking if config.model_type == "ebt" else None
    steps = [f"--model.init_args.steps={how.steps}"] if how else []
    start = [f"--model.init_args.recipe.start_std={how.start_std}"] if how else []
    if how and how.clamp is not None:
        start.append(f"--model.init_args.recipe.clamp={how.clamp}")
    return [
        *([f"--config={recipe}"] if recipe.is_file() else ["--model=LanguageTask", "--data=TextDataModule", *start]),
        *steps,
        f"--model.init_args.network.pretrained={folder}",
        f"--data.init_args.tokenizer={folder}",
        f"--data.init_args.context_length={config.context_length}",
        *(f"--data.init_args.{name}={source}" for name in ("source", "validation_source", "test_source")),
        "--data.init_args.fractions=[1.0, 0.0, 0.0]",
    ]


def main(args: argparse.Namespace) -> int:
    """Run the command. Results are printed and written to the run's results.json."""
    stage, path = STAGES[args.command], located(args.checkpoint)
    if (path / "config.json").is_file():
        run, file = Run(path), None
        own = _around(str(path), args.data)
    elif args.data is not None:
        raise InputError("--data is for model folders, and a run has its own data: set --data.source instead.")
    else:
        run, file = Run.of(args.checkpoint)
        own = run.arguments()
    with quiet(".*callbacks used to create the checkpoint need to be provided.*"):  # not needed for evaluation
        cli = configure([*own, *(f"--config={config}" for config in args.config), *args.keys])
        try:
            getattr(cli.trainer, args.command)(cli.model, cli.datamodule, ckpt_path=file, verbose=False, weights_only=True)
        except RuntimeError as error:
            if file is not None and (told := mismatch(error, file, cli.model)):
                raise told from error
            raise
    metrics = {name: value.item() for name, value in cli.trainer.callback_metrics.items()}
    name = run.folder.name if file is None else file.name
    console = Console()
    print_table(console, f"{stage}, {name}", results_table(metrics, cli.model.steps))
    if path == Path(args.checkpoint):  # folders of bundled models stay as they are
        run.add_results({stage: {"checkpoint": name, "metrics": metrics}})
        say(console, f"results: {run.results}")
    return 0
