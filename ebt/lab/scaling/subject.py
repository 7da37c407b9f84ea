"""Interface of the tasks of a scaling study."""

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
    """A task of a scaling study: its data, models and default grids."""

    loss: str
    """Name and unit of the loss."""
    items: str
    """Name of the data items, which are predicted one at a time."""
    weights: str = "weights"
    """Name of the parameter count."""
    data: ClassVar[Mapping[str, Any]]
    """Settings of the data with their defaults. A grid may change them."""
    train: str
    """Default training data."""
    recipes: ClassVar[Mapping[str, Recipe]]
    """Recipes of EBTs by kind."""
    paper: ClassVar[Mapping[str, float]]
    """Percentage by which EBTs scale faster than Transformer++ in the paper, by axis."""

    @abstractmethod
    def grid(self, axis: str, quick: bool) -> Grid:
        """Return the default grid of an axis. On the axis data it may have no values; they are then shares of the data."""

    @abstractmethod
    def identity(self, source: str) -> Json:
        """Return an identity of the data that does not depend on their location."""

    def contents(self, data: Json) -> Json:
        """Return the data settings that name files, replaced by identities of the files."""
        return {}

    @abstractmethod
    def open(self, data: Json, places: Json, seed: int, batch_size: int = 1, examples: int | None = None) -> Any:
        """Return the prepared data module, with the held-out rows as validation set.

        The seed sets the order and the ``examples`` training rows (None: all), but not the held-out rows.

        Raises:
            InputError: The data cannot be read.
        """

    @abstractmethod
    def per_example(self, data: Json) -> int:
        """Return the number of items per row."""

    @abstractmethod
    def task(self, sizes: Json, recipe: Recipe | None, optimisation: Optimisation, seed: int) -> ModelTask:
        """Return the task of an EBT, or of its feed-forward twin without a recipe. ``sizes`` are layers, dim and heads."""

    @abstractmethod
    def sizes(self, task: ModelTask, data: Json) -> Sizes:
        """Return the sizes that determine the operations of a task whose model is built."""


def subject(name: str) -> Subject:
    """Return the subject of a task."""
    return importlib.import_module(f"ebt.lab.scaling.{name}").SUBJECT
