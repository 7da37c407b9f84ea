"""Averaged weights."""

from __future__ import annotations

import itertools
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging


class WeightAverage(EMAWeightAveraging):
    """Average the weights exponentially, and validate and keep the average.

    Before averaging starts, the weights themselves are validated and kept. With Lightning's callback, these are the random
    ones of the start, so a short run, or one that ends early, leaves an untrained model. Settings are those of Lightning's
    ``EMAWeightAveraging``.
    """

    @torch.no_grad()
    def _follow(self, task: L.LightningModule) -> None:
        """Before the first update of the average, make it equal to the weights. That update replaces it."""
        if self._average_model is None or self._average_model.n_averaged:
            return
        averages = itertools.chain(self._average_model.module.parameters(), self._average_model.module.buffers())
        for average, current in zip(averages, itertools.chain(task.parameters(), task.buffers()), strict=True):
            average.copy_(current)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._follow(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._follow(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._follow(pl_module)
        super().on_train_end(trainer, pl_module)
