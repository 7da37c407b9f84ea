"""Tasks of models of cells (``ebt.models.cells``): predict all free cells by thinking, in one pass, or with a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.cells import Cells
from ebt.thinking import IGNORED, Recipe
from ebt.training.model_task import ModelTask, Network
from ebt.training.task import RECIPE, Batch, Sums

LOOPS = {"feed_forward": "none", "looped_prediction": "prediction", "looped_hidden": "hidden", "recursive": "recursive"}
"""``loop`` of the configuration of each kind of model without an energy."""


@dataclass(frozen=True)
class CellsNetwork(Network):
    """A model of cells: ``ebt``; ``feed_forward``, one pass; ``looped_prediction`` and ``looped_hidden``, which repeat the
    same blocks with their last prediction or hidden state; or ``recursive``, a tiny recursive model."""

    kind: Literal["ebt", "feed_forward", "looped_prediction", "looped_hidden", "recursive"] = "ebt"
    latent: bool = False
    """Whether each cell of an EBT carries a latent vector through the descent. Needs ``head: bilinear``."""
    inner: int | None = None
    """Updates of the latent state per update of the answer, for kind recursive (6 by default)."""
    unused: ClassVar = ("anchor",)
    looping: ClassVar = tuple(LOOPS)[1:]

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

    def fields(self, recipe: Recipe, steps: int) -> dict[str, Any]:
        """Return the fields of the model's configuration."""
        if self.kind == "ebt":
            return {"latent": self.latent, **self.sizes(), **self.thinking(recipe, steps)}
        return {"loop": LOOPS[self.kind], **({} if self.inner is None else {"inner": self.inner}), **self.sizes()}


class CellsTask(ModelTask):
    """Predict the free cells of contexts. The loss is in nats per free cell.

    Batches have a context and an answer (B, C), named in ``NAMES``. Loops train with a random number of iterations and a loss
    at each one, as set by the recipe's ``min_steps``, ``max_steps``, ``loss`` and ``burn_in``.

    Also logged, in [0, 1]: exact, the share of answers without a wrong cell, and cells, the share of right free cells. Energies
    are sums over an answer.
    """

    CELLS: ClassVar[type[Cells]]
    """What the problem knows about its cells."""
    NAMES: ClassVar[tuple[str, str]]
    """Names of the context and the answer in batches."""
    warm_starts = True
    bidirectional = True

    def __init__(self, validation_steps: Sequence[int] = (1, 2, 4, 8, 16), **settings: Any) -> None:
        super().__init__(validation_steps=validation_steps, **settings)

    def choose_second_order(self, trainer: L.Trainer) -> None:
        if getattr(self.network if self.model is None else self.model.config, "latent", False):
            self.second_order = None  # the energy gives its own slope
        else:
            super().choose_second_order(trainer)

    def configure_model(self) -> None:
        super().configure_model()
        if getattr(self.model.config, "latent", False):
            self.second_order = None  # it may be pretrained, and known only now

    def context(self, batch: Batch) -> Tensor:
        return batch[self.NAMES[0]]

    def target(self, batch: Batch) -> Tensor:
        context, answer = (batch[name] for name in self.NAMES)
        return torch.where(self.CELLS.free(context), self.CELLS.classes(answer), IGNORED)

    def passes(self, batch: Batch, iterations: int, burn_in: int = 0) -> list[Tensor]:
        return self.model(self.context(batch), iterations, burn_in)

    def measure(self, batch: Batch, state: Tensor) -> Sums:
        target = self.target(batch)
        free = target != IGNORED
        right = (self.geometry().decide(state) == target) | ~free
        return {
            **super().measure(batch, state),
            "exact": (right.all(-1).sum(), torch.tensor(len(right))),
            "cells": ((right & free).sum(), free.sum()),
        }

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return answers (B, C), with the model's own number of steps."""
        with torch.inference_mode(False), torch.no_grad():
            batch = {key: value.clone() for key, value in batch.items()}
            return self.CELLS.fill(self.context(batch), self.geometry().decide(self.answer(batch)))
