"""Problems, and the registry through which models and configurations are found by name."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import transformers
import yaml

from ebt.checks import as_tensor
from ebt.errors import InputError, unknown
from ebt.evaluation.results import Curve, Measure, Progress
from ebt.models.base import HubModel
from ebt.shelf import located

if TYPE_CHECKING:
    from lightning import LightningDataModule
    from torch import Tensor

    from ebt.training.task import ThinkingTask

BUILT_IN = ("language", "sudoku", "mazes", "images", "video")
"""Subpackages with a module ``problem`` that defines ``PROBLEM``."""
MODELS = {
    "ebt": "language.ebt:EBTForCausalLM",
    "ebt_transformer_pp": "language.transformer_pp:TransformerPPForCausalLM",
    "ebt_sudoku": "sudoku.models:EBTForSudoku",
    "ebt_sudoku_transformer": "sudoku.models:SudokuTransformer",
    "ebt_mazes": "mazes.models:EBTForMazes",
    "ebt_mazes_transformer": "mazes.models:MazeTransformer",
    "ebt_images": "images.models:EBTForImages",
    "ebt_dit_images": "images.models:DiTForImages",
    "ebt_video": "video.models:EBTForVideo",
    "ebt_video_transformer": "video.models:VideoTransformer",
}
"""Homes of the library's models by ``model_type``: a model loads without the other problems, and without what trains it."""
GROUP = "ebt.problems"
"""Entry point group through which other packages register problems: ``NAME = "package.module:PROBLEM"``."""


@dataclass(frozen=True)
class Request:
    """What ``ebt think`` asks of a problem's data. ``None`` stands for the problem's default."""

    checkpoint: str
    models: Mapping[str, Any]
    """Models to compare, by folder. The first is that of ``checkpoint``."""
    data: str | None = None
    split: str = "test"
    givens: int | None = None
    size: int | None = None
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
    """Name for titles."""
    size: int
    """Number of rows, for progress."""
    data: Any
    """Argument of the problem's ``curve``."""
    note: str = ""
    """Note for the user."""


class _Late:
    def __init__(self, home: str) -> None:
        self.home = home

    def __get__(self, instance: object, owner: type) -> Any:
        return _imported(self.home)


def late(home: str) -> Any:
    """Return a class attribute that imports ``module:Name`` on first use: tasks and data need packages that models do not."""
    return _Late(home)


def _imported(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(importlib.import_module(module), name)


class Problem(ABC):
    """A kind of task: models, data, loss, metrics, pictures, configurations.

    A subclass sets the fields and implements the methods. One instance of it is registered.
    """

    name: ClassVar[str]
    models: ClassVar[tuple[type[HubModel], ...]]
    """Models that think, and their baselines."""
    task: ClassVar[type[ThinkingTask]]
    data: ClassVar[type[LightningDataModule]]
    measure: ClassVar[Measure]
    columns: ClassVar[tuple[str, ...]]
    """Column titles of quality tables."""
    options: ClassVar[Collection[str]] = ()
    """Options of ``ebt think`` that apply: candidates, rule, tolerance, givens, size, noise, shifted."""
    rules: ClassVar[Collection[str]] = ("lowest", "highest", "largest_drop", "settled")
    """Rules by which a candidate can be chosen."""

    @abstractmethod
    def cells(self, point: Any) -> list[str]:
        """Format a point of a curve for the columns."""

    @abstractmethod
    def told(self, point: Any) -> str:
        """Describe the quality of a point."""

    @abstractmethod
    def held_out(self, request: Request) -> HeldOut:
        """Load the data to measure on.

        Raises:
            InputError: If no data are known, or the models cannot be compared.
        """

    def given(self, model: Any, data: Any) -> Any:
        """Check the data of a call of ``ebt.evaluate``, and return them as ``curve`` takes them.

        Raises:
            InputError: If they are something else.
        """
        return data

    @abstractmethod
    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[Any]:
        """Measure the quality for every number of steps and candidates."""

    def pictures(self, folder: Path, request: Request, held_out: HeldOut, steps: int) -> list[Path]:
        """Draw further pictures and return their paths."""
        return []


def tensors(data: Any, *names: str) -> tuple[Tensor, ...]:
    """Return data of several parts, one for each name, as tensors.

    Raises:
        InputError: If there are other than the named parts, or one cannot be made a tensor.
    """
    wanted = " and ".join(names)
    if not isinstance(data, (tuple, list)) or len(data) != len(names):
        found = f"{len(data)} parts" if isinstance(data, (tuple, list)) else type(data).__name__
        raise InputError(f"data is {found}: give a tuple of {wanted}")
    return tuple(as_tensor(name, part) for name, part in zip(names, data, strict=True))


@cache
def problems() -> dict[str, Problem]:
    """Return all problems by name: the library's own, and those registered by installed packages."""
    return {**{name: _built_in(name) for name in BUILT_IN}, **_outside()}


def _built_in(name: str) -> Problem:
    return _imported(f"ebt.problems.{name}.problem:PROBLEM")


@cache
def _outside() -> dict[str, Problem]:
    return {entry.name: entry.load() for entry in entry_points(group=GROUP)}


def problem_of(model_type: str) -> Problem:
    """Return the problem a model type belongs to. Raises ``InputError`` if there is none."""
    if model_type in MODELS:
        return _built_in(MODELS[model_type].partition(".")[0])
    for problem in _outside().values():
        if any(model.config_class.model_type == model_type for model in problem.models):
            return problem
    raise InputError(f"no problem has models of type {model_type!r}: install the package that provides it")


@cache
def model_class(model_type: str) -> type[HubModel]:
    """Return a model class, registered with the auto classes of ``transformers``.

    Raises:
        InputError: If no problem has such models.
    """
    if model_type in MODELS:
        model: type[HubModel] = _imported(f"ebt.problems.{MODELS[model_type]}")
    else:
        found = problem_of(model_type).models
        model = next(each for each in found if each.config_class.model_type == model_type)
    transformers.AutoConfig.register(model_type, model.config_class, exist_ok=True)
    getattr(transformers, model.auto_class).register(model.config_class, model, exist_ok=True)
    return model


def model_types() -> list[str]:
    """Return the types of all models."""
    return [*MODELS, *(model.config_class.model_type for problem in _outside().values() for model in problem.models)]


def models() -> dict[str, type[HubModel]]:
    """Return all model classes by ``model_type``, registered with the auto classes of ``transformers``."""
    return {model_type: model_class(model_type) for model_type in model_types()}


def configurations() -> dict[str, Path]:
    """Return all configurations by name, ``PROBLEM/NAME``. ``language/ebt`` is ``ebt/problems/language/configs/ebt.yaml``."""
    files = sorted(Path(__file__).parent.glob("*/configs/*.yaml"))
    found = {f"{path.parents[1].name}/{path.stem}": path for path in files}
    for entry in entry_points(group=GROUP):
        folder = Path(str(find_spec(entry.module.partition(".")[0]).origin)).parent  # type: ignore[union-attr]
        found |= {f"{entry.name}/{path.stem}": path for path in sorted(folder.rglob("configs/*.yaml"))}
    return found


def find_configuration(name: str) -> Path:
    """Return the file of a configuration.

    ``name`` is a path, or a name of ``configurations``. A leading ``configs/`` and a trailing ``.yaml`` are ignored.

    Raises:
        InputError: If there is no such file or name.
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
    """Check that models can be compared. Raises ``InputError`` if ``values`` differ."""
    if len(set(values)) > 1:
        raise InputError(f"the models differ in {what} ({sorted(map(str, set(values)))}): compare models of one kind")


def unknown_data(folder: str) -> InputError:
    """Return the error for a model folder whose data are unknown."""
    return InputError(f"{folder} is not part of a run folder, so its data are unknown: give them with --data.")


def run_data(checkpoint: str, module: type[Any]) -> dict[str, Any] | None:
    """Return the data settings of the run that a folder is or belongs to, or ``None`` if there is no run.

    Raises:
        InputError: If the run's configuration cannot be read, or its data module is not a ``module``.
    """
    folder = located(checkpoint).resolve()
    config = next((path for path in (folder / "config.yaml", folder.parent / "config.yaml") if path.is_file()), None)
    if config is None:
        return None
    try:
        read = yaml.safe_load(config.read_text(encoding="utf-8"))
        kind, settings = read["data"]["class_path"].rpartition(".")[2], read["data"].get("init_args") or {}
        settings = {"seed": read["seed_everything"], **settings}  # `ebt fit` passes its seed to the data module
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{config} has no readable data settings ({error!r}): give the data with --data.") from error
    if kind != module.__name__:
        raise InputError(f"{config} has data of class {kind}, not {module.__name__}: give the data with --data.")
    return settings
