"""Configurations into trainers, tasks and data: Lightning's command line with this project's defaults and errors."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union, get_args

import lightning as L
import yaml
from jsonargparse import ArgumentError
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import ebt.problems.images.data
import ebt.problems.images.task
import ebt.problems.language.data
import ebt.problems.language.task
import ebt.problems.sudoku.data
import ebt.problems.sudoku.task
import ebt.problems.video.data
import ebt.problems.video.task  # noqa: F401 (configurations find all classes by their short names)
from ebt.cli.checkpoints import AtomicCheckpointIO, Checkpoints
from ebt.cli.machine import check_settings, check_trainer
from ebt.cli.progress import Report
from ebt.cli.run import Run
from ebt.errors import InputError
from ebt.problems.configurations import find_configuration
from ebt.train.sharding import supported
from ebt.train.task import ThinkingTask
from ebt.train.training import quiet

DEFAULTS = {
    "max_steps": 1000,
    "val_check_interval": 200,
    "check_val_every_n_epoch": None,
    "devices": 1,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 1,
    "inference_mode": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,  # Checkpoints does it
}


class TrainingCLI(LightningCLI):
    """Reads configurations; makes the task, the data module and the trainer of a run. Runs nothing itself."""

    def __init__(self, arguments: list[str], run: Run | None) -> None:
        self.run_folder = run
        if os.getcwd() not in sys.path:  # noqa: PTH109 (a string); own tasks beside the configuration
            sys.path.append(os.getcwd())  # noqa: PTH109
        super().__init__(
            ThinkingTask,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=DEFAULTS,
            auto_configure_optimizers=False,
            parser_kwargs={"exit_on_error": False, "prog": "ebt fit"},
            args=arguments,
            run=False,
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_core_arguments_to_parser(parser)
        for action in parser._actions:
            if set(get_args(getattr(action, "_typehint", None))) == {int, float, NoneType}:
                action._typehint = Union[int, float, None]  # noqa: UP007

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--checkpoint_every", type=PositiveInt, default=200, help="Updates between checkpoints of the last state."
        )
        parser.add_argument(
            "--loggers",
            type=list[Literal["csv", "tensorboard", "wandb"]],
            default=["csv", "tensorboard"],
            help="Where logs go.",
        )
        parser.link_arguments("seed_everything", "model.init_args.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config = parser.parse_args(args)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        settings = {**self.config_init["trainer"], **kwargs}
        if settings["gradient_clip_val"] is not None:
            raise InputError("trainer.gradient_clip_val is set: set model.optimisation.clip instead.")
        settings["strategy"] = supported(settings["strategy"])
        check_settings(settings)
        for name in ("callbacks", "plugins"):
            given = settings[name]
            settings[name] = [] if given is None else list(given) if isinstance(given, list) else [given]
        settings["plugins"].append(AtomicCheckpointIO())
        if settings["enable_progress_bar"] is not False:
            settings["callbacks"].append(Report())
        if self.run_folder is None or settings["fast_dev_run"]:
            settings["logger"] = False
        else:
            settings["callbacks"].append(Checkpoints(self.run_folder, self.config["checkpoint_every"]))
            settings["default_root_dir"] = str(self.run_folder.folder)
            if settings["logger"] is None:
                settings["logger"] = [_logger(kind, self.run_folder) for kind in self.config["loggers"]]
        trainer = L.Trainer(**settings)
        check_trainer(trainer)
        return trainer

    def saved(self) -> str:
        """The whole configuration as YAML."""
        return str(self.parser.dump(self.config, skip_unset=False))

    def callback(self, kind: type[Any]) -> Any:
        """The trainer's callback of a class, or None."""
        return next((callback for callback in self.trainer.callbacks if isinstance(callback, kind)), None)


def configure(arguments: list[str], run: Run | None = None, kind: type[TrainingCLI] = TrainingCLI) -> TrainingCLI:
    """Read the configuration of ``arguments`` and make everything in it, with a command line of ``kind``.

    Raises:
        InputError: something in it is wrong.
    """
    quiet()
    try:
        cli = kind(_with_files(arguments), run)
    except (ArgumentError, MisconfigurationException, ValueError) as error:
        raise InputError(explain(error)) from error
    for path in cli.config.get("config") or []:  # the parser passes over a seed of a part without a word
        given = yaml.safe_load(Path(path.absolute).read_text(encoding="utf-8"))
        for part in ("model", "data"):
            if "seed" in ((given.get(part) or {}).get("init_args") or {}):
                raise InputError(f"{path}: {part}.init_args.seed is set, but one seed serves all: set seed_everything instead.")
    return cli


def _with_files(arguments: list[str]) -> list[str]:
    """The arguments with files in the place of configurations' names."""
    found, option = list[str](), ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if option == "--config":
            found.append(str(find_configuration(argument)))
        elif name == "--config" and equals:
            found.append(f"--config={find_configuration(value)}")
        else:
            found.append(argument)
        option = argument
    return found


def explain(error: BaseException) -> str:
    """The innermost reason of a wrong configuration, with the key, in one line or two."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, InputError):
            return str(link)
    keys = [key for link in chain for key in re.findall(r'Parser key "([^"]+)"', str(link))]
    key = max(dict.fromkeys(keys), key=len, default="")
    outer = f"{keys[0]}." if keys else ""
    reason = " ".join(re.sub(r'^Parser key "[^"]+":\s*', "", str(chain[-1]).strip()).split())
    for pattern, rewrite in _REASONS:
        if found := re.search(pattern, reason):
            return found.expand(rewrite).replace("KEY.", outer)
    reason = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", reason).replace("Expected a one of", "Expected one of")
    reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason)
    return f"{key}: {reason}" if key and key not in reason else reason


_SETTINGS = "See `ebt fit --help-all`, or `ebt fit --model.help LanguageTask`."
_REASONS = (
    (r"unrecognized arguments: (?:--)?(.*)", rf"there is no setting KEY.\1. {_SETTINGS}"),
    (r"Option '([^']*)' is not accepted", rf"there is no setting KEY.\1. {_SETTINGS}"),
    (r"Group '([^']*)' does not accept option '([^']*)'", rf"there is no setting KEY.\1.\2. {_SETTINGS}"),
    (r"Expected a dot import path string: (.*)", r"there is no class \1: give its name, with its module if it is your own."),
    (r"Unexpected config: (.*)", r"a configuration holds no settings, but: \1"),
    (r"(while (?:parsing|scanning) .*)", r"a configuration is no valid YAML: \1"),
    (r"File does not exist: '?([^']*)'?", r"the file \1 does not exist: check the path."),
)
"""What jsonargparse says, and what it means; KEY is the part of the configuration."""


def _logger(kind: str, run: Run) -> Logger:
    if kind == "csv":
        return CSVLogger(run.logs, name="csv")
    if kind == "tensorboard":
        return TensorBoardLogger(run.logs, name="tensorboard", version="")
    if importlib.util.find_spec("wandb") is None:
        raise InputError(
            "loggers has wandb, which is not installed: `pip install 'energy-based-transformers[wandb]'`, or leave it out."
        )
    return WandbLogger(name=run.folder.name, save_dir=run.folder, project="ebt")
