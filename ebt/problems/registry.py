"""Problems: kinds of tasks, each with everything that belongs to it, and where their parts are found by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import transformers
from lightning import LightningDataModule

from ebt.errors import InputError, unknown
from ebt.evaluation.results import Curve, Measure, Progress
from ebt.models.base import HubModel
from ebt.training.task import ThinkingTask

BUILT_IN = ("language", "sudoku", "images", "video")
"""Folders beside this file whose module ``problem`` has a ``PROBLEM``."""
GROUP = "ebt.problems"
"""The group of entry points by which other packages register their own: ``NAME = "package.module:PROBLEM"``."""


@dataclass(frozen=True)
class Request:
    """What ``ebt think`` asks of a problem's data; None is the problem's own."""

    checkpoint: str
    models: Mapping[str, Any]
    """The models to compare, by their folders; the first is that of ``checkpoint``."""
    data: str | None = None
    split: str = "test"
    givens: int | None = None
    noise: float | None = None
    limit: int | None = None
    batch_size: int | None = None
    seed: int = 0

    @property
    def model(self) -> Any:
        """The model of ``checkpoint``."""
        return next(iter(self.models.values()))


@dataclass(frozen=True)
class HeldOut:
    """Data that a model was not trained on."""

    name: str
    """For titles."""
    size: int
    """Rows, for progress."""
    data: Any
    """What the problem's ``curve`` takes."""
    note: str = ""
    """What the user should know about it."""


class Problem(ABC):
    """A kind of task: models, data, loss, quality, pictures, configurations.

    A subclass sets the fields and implements the methods; one instance of it is registered.
    """

    name: ClassVar[str]
    models: ClassVar[tuple[type[HubModel], ...]]
    """Models that think, and their rivals."""
    task: ClassVar[type[ThinkingTask]]
    data: ClassVar[type[LightningDataModule]]
    measure: ClassVar[Measure]
    columns: ClassVar[tuple[str, ...]]
    """Of tables of quality."""
    options: ClassVar[Collection[str]] = ()
    """What of ``ebt think`` is for this problem: candidates, rule, tolerance, givens, noise, shifted."""
    rules: ClassVar[Collection[str]] = ("lowest", "highest", "largest_drop")
    """Rules by which candidates of this problem can be chosen."""

    @abstractmethod
    def cells(self, point: Any) -> list[str]:
        """A point of a curve, for the columns."""

    @abstractmethod
    def told(self, point: Any) -> str:
        """The quality of a point, in words."""

    @abstractmethod
    def held_out(self, request: Request) -> HeldOut:
        """Data to measure on.

        Raises:
            InputError: none are known, or the models cannot be compared.
        """

    @abstractmethod
    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[Any]:
        """Quality for every number of steps and candidates."""

    def pictures(self, folder: Path, request: Request, held_out: HeldOut, steps: int) -> list[Path]:
        """Pictures beside the curves; returns their files."""
        return []


@cache
def problems() -> dict[str, Problem]:
    """All problems by name: the library's own, and those that installed packages register."""
    found: dict[str, Problem] = {name: importlib.import_module(f"ebt.problems.{name}.problem").PROBLEM for name in BUILT_IN}
    return {**found, **{entry.name: entry.load() for entry in entry_points(group=GROUP)}}


def problem_of(model_type: str) -> Problem:
    """The problem that a model type belongs to.

    Raises:
        InputError: none.
    """
    for problem in problems().values():
        if any(model.config_class.model_type == model_type for model in problem.models):
            return problem
    raise InputError(f"no problem has models of type {model_type!r}: install the package that it comes from")


@cache
def models() -> dict[str, type[HubModel]]:
    """All models by the ``model_type`` of their configuration, known to the auto classes of ``transformers`` from now on."""
    found = {model.config_class.model_type: model for problem in problems().values() for model in problem.models}
    for model_type, model in found.items():
        transformers.AutoConfig.register(model_type, model.config_class, exist_ok=True)
        getattr(transformers, model.auto_class).register(model.config_class, model, exist_ok=True)
    return found


def configurations() -> dict[str, Path]:
    """All configurations by name, ``PROBLEM/NAME``: ``language/ebt`` is ``ebt/problems/language/configs/ebt.yaml``."""
    files = sorted(Path(__file__).parent.glob("*/configs/*.yaml"))
    found = {f"{path.parents[1].name}/{path.stem}": path for path in files}
    for entry in entry_points(group=GROUP):
        folder = Path(str(find_spec(entry.module.partition(".")[0]).origin)).parent  # type: ignore[union-attr]
        found |= {f"{entry.name}/{path.stem}": path for path in sorted(folder.rglob("configs/*.yaml"))}
    return found


def find_configuration(name: str) -> Path:
    """The file of a configuration: a path, or a name as ``configurations`` has it (a leading ``configs/`` and a trailing
    ``.yaml`` do not matter).

    Raises:
        InputError: no such file and no such name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = configurations()
    short = name.removesuffix(".yaml").removeprefix("configs/")
    if short in known:
        return known[short]
    if path.suffix in (".yaml", ".yml") and "/" not in short:
        raise InputError(f"--config {name}: no such file. Give a YAML file, or one of {', '.join(known)}.")
    raise unknown("configuration", short, known, "--config")


def same(what: str, values: Collection[Any]) -> None:
    """Whether models can be compared.

    Raises:
        InputError: they differ in something.
    """
    if len(set(values)) > 1:
        raise InputError(f"the models differ in {what} ({sorted(map(str, set(values)))}): compare models of one kind")


def unknown_data(folder: str) -> InputError:
    """The error of a model folder that does not know its data."""
    return InputError(f"{folder} does not belong to a run folder, which would know its data: name them with --data.")
