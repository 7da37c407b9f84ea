"""Build trainers, tasks and data modules from configurations, with Lightning's CLI and the library's defaults and errors."""

from __future__ import annotations

import difflib
import importlib.util
import json
import pydoc
import re
from contextlib import suppress
from inspect import signature
from types import NoneType
from typing import Any, Literal, Union, get_args

import lightning as L
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ebt.cli.checkpoints import AtomicCheckpointIO, Checkpoints
from ebt.cli.machine import check_settings, check_trainer
from ebt.cli.options import options_of
from ebt.cli.progress import Report
from ebt.cli.run import Run, absolute
from ebt.cli.terminal import read_text
from ebt.errors import InputError
from ebt.problems.registry import find_configuration, problems
from ebt.training.loop import quiet
from ebt.training.sharding import supported
from ebt.training.task import ThinkingTask

DEFAULTS = {
    "max_steps": 1000,
    "val_check_interval": 200,
    "check_val_every_n_epoch": None,
    "devices": 1,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 1,
    "inference_mode": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,  # the Checkpoints callback does this
}


_SOURCE = ' in "<unicode string>",'
"""Where a text came from, in the messages of YAML."""
_NESTED = re.compile(r"--(model|data)\.(?:init_args\.)?(\w+\.[\w.]+)")
"""Options of settings within settings, such as ``--model.recipe.clamp``."""


class TrainingCLI(LightningCLI):
    """Reads configurations and creates the task, the data module and the trainer. Runs nothing itself."""

    def __init__(self, arguments: list[str], run: Run | None) -> None:
        self.run_folder = run
        for problem in problems().values():
            _ = problem.task, problem.data  # imports the classes, which configurations name without their modules
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
        every = "Number of updates between checkpoints of the last state."
        parser.add_argument("--checkpoint_every", type=PositiveInt, default=200, help=every)
        loggers = list[Literal["csv", "tensorboard", "wandb"]]
        parser.add_argument("--loggers", type=loggers, default=["csv", "tensorboard"], help="Loggers to use.")
        for part in ("model", "data"):
            parser.link_arguments("seed_everything", f"{part}.init_args.seed", compute_fn=int)

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
        """Return the full configuration as YAML, with absolute paths."""
        read = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
        return yaml.safe_dump({**read, **{part: absolute(read.get(part)) for part in ("model", "data")}}, sort_keys=False)

    def callback(self, kind: type[Any]) -> Any:
        """Return the trainer's callback of a class, or None."""
        return next((callback for callback in self.trainer.callbacks if isinstance(callback, kind)), None)


def configure(arguments: list[str], run: Run | None = None, kind: type[TrainingCLI] = TrainingCLI) -> TrainingCLI:
    """Read the configuration in ``arguments`` with a command line of ``kind``, and create its objects.

    Raises:
        InputError: The configuration is invalid.
    """
    found, option = list[str](), ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if option == "--config":
            found.append(_configuration(argument))
        elif (key := _NESTED.fullmatch(name if equals else option)) and (value if equals else argument) == "null":
            found = found if equals else found[:-1]  # the option before its value
            found.append(f"--config={_nothing(*key.groups())}")
        else:
            found.append(f"--config={_configuration(value)}" if name == "--config" and equals else _short(argument))
        option = argument
    with quiet():
        try:
            return kind(found, run)
        except (ArgumentError, MisconfigurationException, ValueError) as error:
            raise InputError(explain(error)) from error


def _nothing(part: str, key: str) -> str:
    """Return the configuration that sets a key of the model or the data to null, which as an option is read as a word."""
    settings: Any = None
    for name in reversed(key.split(".")):
        settings = {name: settings}
    return json.dumps({part: {"init_args": settings}})


def _short(text: str) -> str:
    """Replace the library's qualified class names by short names, so that saved configurations survive moved modules."""
    return re.sub(r"((?:class_path|model|data)['\"]?[:=]\s*['\"]?)ebt\.(?:\w+\.)+(\w+)", r"\1\2", text)


def _configuration(name: str) -> str:
    """Return the path of a configuration, or its text with short class names if it was saved with module paths."""
    path = find_configuration(name)
    text = read_text(str(path))
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).replace(_SOURCE, '').split())}.") from error
    if not read or not isinstance(read, dict):
        raise InputError(f"{path} has no settings: write keys such as `trainer:` with their values below them.")
    for part in ("model", "data"):  # the parser silently ignores these seeds
        with suppress(KeyError, TypeError):
            if "seed" in read[part]["init_args"]:
                raise InputError(f"{path}: {part}.init_args.seed is set: set seed_everything instead, the one seed of a run.")
    short = _short(text)
    return str(path) if short == text else short


def explain(error: BaseException) -> str:
    """Return the innermost reason of a configuration error, with the key, in a line or two."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for link in chain:
        if isinstance(link, InputError):
            return str(link)
    keys = [key for link in chain for key in re.findall(r'Parser key "([^"]+)"', str(link))]
    key = max(dict.fromkeys(keys), key=len, default="")
    reason = " ".join(re.sub(r'^Parser key "[^"]+":\s*', "", str(chain[-1]).strip()).split())
    if found := next(filter(None, (re.search(pattern, reason) for pattern in _UNKNOWN)), None):
        return _unknown_setting(".".join((*keys[:1], *found.groups())), " ".join(map(str, chain)))
    for pattern, rewrite in _REASONS:
        if found := re.search(pattern, reason):
            return found.expand(rewrite)
    reason = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", reason).replace("Expected a one of", "Expected one of")
    reason = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", reason)
    return f"{key}: {reason}" if key and key not in reason else reason


def _unknown_setting(name: str, said: str) -> str:
    """Return the message for an unknown setting, with the closest match and the help to read."""
    part, _, key = name.partition(".")
    owner = re.search(r"given class_path '([\w.]+)'", said)
    kind: Any = L.Trainer if part == "trainer" else pydoc.locate(owner[1]) if owner else None
    parser = ArgumentParser(exit_on_error=False)
    if kind is not None:
        parser.add_class_arguments(kind, fail_untyped=False)
    known = [setting for setting in parser.get_defaults().keys() if setting != "seed"]  # noqa: SIM118 (with nested ones)
    others = [*_TOP, *(option.lstrip("-") for option in options_of("fit").known)]
    others += [f"trainer.{name}" for name in signature(L.Trainer).parameters]
    close = difflib.get_close_matches(key if known else part, known or [other for other in others if other != part], 1)
    nearest = f"Did you mean {part + '.' if known else ''}{close[0]}? " if close else ""
    where = f"--{part}.help {kind.__name__}" if kind not in (None, L.Trainer) else "--help-all"
    return f"there is no setting {name}. {nearest}See `ebt fit {where}`."


_TOP = ("seed_everything", "checkpoint_every", "loggers", "trainer", "model", "data")
_UNKNOWN = (
    r"unrecognized arguments: (?:--)?([\w.]+)",
    r"Option '([^']*)' is not accepted",
    r"Group '([^']*)' does not accept option '([^']*)'",
)
"""Messages of jsonargparse about unknown settings."""
_REASONS = (
    (r"Expected a dot import path string: (.*)", r"there is no class \1: give its name, or module.name for your own class."),
    (r"File does not exist: '?([^']*)'?", r"the file \1 does not exist: check the path."),
)
"""Its other messages, and their replacements."""


def _logger(kind: str, run: Run) -> Logger:
    if kind == "csv":
        return CSVLogger(run.logs, name="csv")
    if kind == "tensorboard":
        return TensorBoardLogger(run.logs, name="tensorboard", version="", default_hp_metric=False)
    if importlib.util.find_spec("wandb") is None:
        raise InputError("loggers contains wandb, which is not installed: `pip install wandb`, or leave it out.")
    return WandbLogger(name=run.folder.name, save_dir=run.folder, project="ebt")
