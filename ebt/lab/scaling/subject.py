"""What a scaling study asks of the task that it trains."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from ebt.lab.scaling.grid import Grid
from ebt.lab.studies.runs import Json
from ebt.thinking import Recipe
from ebt.training.model_task import ModelTask
from ebt.training.optimisation import Optimisation
from ebt.training.plan import Sizes


class Subject(ABC):
    """A task: its data, its models, and its default grids."""

    loss: str
    """What a loss is counted in."""
    items: str
    """What data are counted in, one of which is predicted at a time."""
    weights: str = "weights"
    """What parameters are counted in."""
    data: ClassVar[Mapping[str, Any]]
    """Settings of the data with their defaults; a grid may change them."""
    train: str
    """What is trained on by default."""
    recipes: ClassVar[Mapping[str, Recipe]]
    """Of EBTs, by kind."""
    paper: ClassVar[Mapping[str, float]]
    """By how many per cent EBTs scale faster than Transformer++ in the paper, by axis."""

    @abstractmethod
    def grid(self, axis: str, quick: bool) -> Grid:
        """The default grid of an axis; no values on the axis data: then they are shares of what there is."""

    @abstractmethod
    def identity(self, source: str) -> Json:
        """What tells data from others, wherever they lie."""

    def contents(self, data: Json) -> Json:
        """Of the settings of the data those that name files, as what tells these from others, wherever they lie."""
        return {}

    @abstractmethod
    def open(self, data: Json, places: Json, seed: int, batch_size: int = 1, examples: int | None = None) -> Any:
        """The data module, prepared: batches in the order of the seed, held-out rows as validation, which are the same for
        all seeds; ``examples`` rows to train on, drawn by the seed, or all.

        Raises:
            InputError: data that cannot be read.
        """

    @abstractmethod
    def per_example(self, data: Json) -> int:
        """Items of a row."""

    @abstractmethod
    def task(self, sizes: Json, recipe: Recipe | None, optimisation: Optimisation, seed: int) -> ModelTask:
        """The EBT of a recipe, or without one its feed-forward twin; ``sizes`` are layers, dim and heads."""

    @abstractmethod
    def sizes(self, task: ModelTask, data: Json) -> Sizes:
        """Those that operations depend on, of a task whose model is built."""


def subject(name: str) -> Subject:
    """The subject of a task by its name."""
    found: Subject = importlib.import_module(f"ebt.lab.scaling.{name}").SUBJECT
    return found
