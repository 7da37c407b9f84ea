"""Sudoku: fill in all empty cells of a board at once, by thinking, in one pass, or with a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.models import EBTForSudoku, SudokuTransformer, fill
from ebt.thinking import IGNORED, Recipe
from ebt.training.model_task import ModelTask, Network
from ebt.training.optimisation import Optimisation
from ebt.training.task import OPTIMISATION, RECIPE, Batch, Sums

_LOOPS = {"feed_forward": "none", "looped_prediction": "prediction", "looped_hidden": "hidden", "recursive": "recursive"}


@dataclass(frozen=True)
class SudokuNetwork(Network):
    """A model of boards: ``ebt``; ``feed_forward``, one pass; ``looped_prediction`` and ``looped_hidden``, which repeat the
    same blocks with their last prediction or hidden state; or ``recursive``, a tiny recursive model."""

    kind: Literal["ebt", "feed_forward", "looped_prediction", "looped_hidden", "recursive"] = "ebt"
    rules: bool = False
    """Whether attention knows which cells share a row, a column or a box."""
    latent: bool = False
    """Whether each cell of an EBT carries a latent vector through the descent. Needs ``head: bilinear``."""
    inner: int | None = None
    """Updates of the latent state per update of the answer, for kind recursive (6 by default)."""
    unused: ClassVar = ("anchor",)
    looping: ClassVar = tuple(_LOOPS)[1:]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inner is not None and self.kind != "recursive":
            raise InputError(f"network.inner is for kind recursive, but kind is {self.kind}: leave it out.")
        if self.latent and self.kind != "ebt":
            raise InputError(f"network.latent is for kind ebt, but kind is {self.kind}: leave it out.")

    def check(self, recipe: Recipe, kind: str | None = None) -> None:
        super().check(recipe, kind)
        for name in ("warm_start", "second_order", "nudge", "rows_at_once") if self.latent else ():
            if (value := getattr(recipe, name)) != getattr(RECIPE, name):
                raise InputError(f"recipe.{name} is {value!r}, but a latent descent is differentiated once: leave it out.")

    def build(self, board: int, recipe: Recipe, steps: int) -> HubModel:
        """Build the model with fresh weights."""
        if self.kind == "ebt":
            fields = {"rules": self.rules, "latent": self.latent, **self.sizes(), **self.thinking(recipe, steps)}
            return EBTForSudoku(EBTSudokuConfig(board, **fields))
        inner = {} if self.inner is None else {"inner": self.inner}
        return SudokuTransformer(SudokuTransformerConfig(board, _LOOPS[self.kind], rules=self.rules, **inner, **self.sizes()))


NETWORK = SudokuNetwork()


class SudokuTask(ModelTask):
    """Complete boards. The loss is in nats per empty cell.

    Batches have ``puzzle`` and ``solution`` (B, C), 0 where empty. The size of the board is that of the trainer's data module
    (``size``). Loops train with a random number of iterations and a loss at each one, as set by the recipe's ``min_steps``,
    ``max_steps`` and ``loss``.

    Args:
        network: The model.
        recipe, optimisation, validation_steps, settings: See ``ThinkingTask``.

    Also logged, in [0, 1]: exact, the share of boards without a wrong cell, and cells, the share of right empty cells. Energies
    are sums over a board.
    """

    warm_starts = True
    bidirectional = True

    def __init__(
        self,
        network: SudokuNetwork = NETWORK,
        recipe: Recipe = RECIPE,
        optimisation: Optimisation = OPTIMISATION,
        validation_steps: Sequence[int] = (1, 2, 4, 8, 16),
        **settings: Any,
    ) -> None:
        network.check(recipe)
        super().__init__(recipe=recipe, optimisation=optimisation, validation_steps=validation_steps, **settings)
        self.network = network

    def build(self) -> HubModel:
        (board,) = self.of_data("size")
        return self.network.build(board, self.recipe, self.steps)

    def context(self, batch: Batch) -> Tensor:
        return batch["puzzle"]

    def target(self, batch: Batch) -> Tensor:
        return torch.where(batch["puzzle"] == 0, batch["solution"] - 1, IGNORED)

    def passes(self, batch: Batch, iterations: int) -> list[Tensor]:
        return self.model(batch["puzzle"], iterations)

    def measure(self, batch: Batch, state: Tensor) -> Sums:
        right = fill(batch["puzzle"], self.geometry().decide(state)) == batch["solution"]
        empty = batch["puzzle"] == 0
        return {
            **super().measure(batch, state),
            "exact": (right.all(-1).sum(), torch.tensor(len(right))),
            "cells": ((right & empty).sum(), empty.sum()),
        }

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return completed boards (B, C), with the model's own number of steps."""
        with torch.inference_mode(False), torch.no_grad():
            batch = {key: value.clone() for key, value in batch.items()}
            return fill(batch["puzzle"], self.geometry().decide(self.answer(batch)))
