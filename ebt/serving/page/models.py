"""The models that the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ebt.errors import InputError
from ebt.problems.folder import load_folder
from ebt.serving.engine import Engine

SHIPPED = ("text-python", "sudoku-6x6", "sudoku-9x9", "sudoku-6x6-twin", "photos")
"""Bundled models that the page can show."""


@dataclass
class Shown:
    """Models by name, sorted by the tab that shows them."""

    engine: Engine
    """Generates text, for the page as for programs."""
    boards: dict[str, Any] = field(default_factory=dict)
    twins: dict[int, tuple[str, Any]] = field(default_factory=dict)
    """A feed-forward model and its name, by size of the board."""
    images: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """Why bundled models cannot be shown, by name."""

    @classmethod
    def sorted(cls, engine: Engine, models: Mapping[str, Any], missing: Mapping[str, str] | None = None) -> Shown:
        """Sort models of boards and images by what they are.

        Raises:
            InputError: If the page cannot show a model.
        """
        shown = cls(engine, missing=dict(missing or {}))
        for name, model in models.items():
            kind = model.config.model_type
            if kind == "ebt_sudoku":
                shown.boards[name] = model
            elif kind == "ebt_sudoku_transformer" and model.config.loop == "none":
                shown.twins[model.config.board] = name, model
            elif kind == "ebt_images":
                shown.images[name] = model
            else:
                what = "an EBT for Sudoku, its feed-forward twin, an EBT for images, or a language model"
                raise InputError(f"{name} has the model type {kind!r}, which cannot be served: give {what}.")
        return shown

    @property
    def text(self) -> dict[str, Any]:
        """Language models that think, with their tokenizers."""
        return {name: served for name, served in self.engine.models.items() if hasattr(served.model, "thinking")}


def come_along(names: tuple[str, ...] = SHIPPED) -> tuple[dict[str, Any], dict[str, str]]:
    """Load the bundled models, and return the reason for each that is not here."""
    found, missing = dict[str, Any](), dict[str, str]()
    for name in names:
        try:
            found[name] = load_folder(name)
        except InputError as error:
            missing[name] = str(error)
    return found, missing
