"""Pictures of what a denoiser makes of images during training: what a loss does not tell."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from ebt.training.sharding import gathered

SHOWN = 4
"""Images of a picture."""


class ImageSamples(L.Callback):
    """After a validation, put noisy, denoised and clean images into TensorBoard, one row each.

    Args:
        every: validations between pictures; 0 for none.
    """

    def __init__(self, every: int = 1) -> None:
        self.every, self.validations = every, 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not self.every or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        if (self.validations - 1) % self.every == 0:
            with torch.no_grad(), gathered(pl_module):
                if trainer.is_global_zero:
                    self._show(trainer, pl_module)

    def _show(self, trainer: L.Trainer, task: Any) -> None:
        writers = [logger for logger in trainer.loggers if isinstance(logger, L.pytorch.loggers.TensorBoardLogger)]
        if writers and (picture := self.sample(trainer, task)) is not None:
            for logger in writers:
                logger.experiment.add_image("denoised", picture, trainer.global_step)

    def sample(self, trainer: L.Trainer, task: Any) -> Tensor | None:
        """Noisy, denoised and clean images (C, 3 H, n W) in [0, 1], of the first validation batch, with noise of a fixed seed;
        None of a task without images."""
        loaders: Any = trainer.val_dataloaders
        batch: dict[str, Tensor] = next(iter(loaders[0] if isinstance(loaders, list) else loaders), {})
        if "image" not in batch:
            return None
        batch = {key: value[:SHOWN].to(task.device) for key, value in batch.items()}
        with torch.inference_mode(False), torch.no_grad():
            kept, task._noises = task._noises, torch.Generator(task.device).manual_seed(0)
            noisy = task.start(batch, len(batch["image"]), torch.Generator(task.device).manual_seed(0))
            found, task._noises = task.answer(batch), kept
        rows = [torch.cat(list(images), -1) for images in (noisy, found, batch["image"])]
        return ((torch.cat(rows, -2).clamp(-1, 1) + 1) / 2).cpu()

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
