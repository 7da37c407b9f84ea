"""Image denoising: by thinking from the noisy image, or with a Diffusion Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.metrics import psnr
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.pretrained import start_from
from ebt.thinking import Euclidean, Geometry, Recipe
from ebt.training.model_task import ModelTask, Network
from ebt.training.sharding import gathered
from ebt.training.task import Batch, Outcome, Sums

RECIPE = Recipe(min_steps=1, max_steps=2)
EVALUATION_SEED = 20_250_702
SHOWN = 4
"""Number of images in a picture."""


@dataclass(frozen=True)
class DenoisingNetwork(Network):
    """A model of images: ``ebt``, with a quadratic head by default, or ``dit``, the Diffusion Transformer."""

    kind: Literal["ebt", "dit"] = "ebt"
    patch_size: int = 8
    spaces: ClassVar = EBTImagesConfig.spaces
    unused: ClassVar = ("anchor", "input_gradient")
    recipe: ClassVar = RECIPE
    unused_recipe: ClassVar = ("start_std", "rows_at_once")
    loads_pretrained: ClassVar = True

    def build(self, size: int, channels: int, level: float, steps: int, recipe: Recipe = RECIPE) -> HubModel:
        """Build the model, with fresh weights unless it is pretrained.

        Raises:
            InputError: If a pretrained model does not fit, see ``ebt.problems.pretrained.start_from``.
        """
        if self.pretrained is not None:
            kinds = {"ebt": EBTForImages, "dit": DiTForImages}
            data = {"image_size": size, "num_channels": channels, "noise_level": level}
            return start_from(self, recipe, kinds, lambda fresh: fresh.build(size, channels, level, steps, recipe), **data)
        own: dict[str, Any] = {"image_size": size, "num_channels": channels, "patch_size": self.patch_size, **self.sizes()}
        if self.kind == "dit":
            return DiTForImages(DiTImagesConfig(level, **own))
        return EBTForImages(EBTImagesConfig(level, **{"head": "quadratic", **own, **self.thinking(recipe, steps)}))


NETWORK = DenoisingNetwork()


class DenoisingTask(ModelTask):
    """Remove the noise of images. The loss is smooth L1.

    Batches have ``image`` (B, C, H, W), values in [-1, 1]. Evaluation batches may have ``level`` (B,), which then replaces the
    argument ``level``. An EBT starts at the noisy image. A Diffusion Transformer learns all noise levels up to ``level`` with
    its own loss. It is evaluated by its direct estimate; ``ebt think`` compares whole trajectories.

    Args:
        network: The model.
        level: Noise level to remove, as a share of the linear schedule. 0.1 leaves 90 % of the signal's power.
        picture_every: Number of validations between pictures in TensorBoard. 0 disables them.
        recipe, validation_steps, settings: See ``ThinkingTask``.

    Also logged: psnr, in dB. Energies are means over the patches of an image.
    """

    bidirectional = True

    def __init__(
        self,
        network: DenoisingNetwork = NETWORK,
        level: float = 0.1,
        recipe: Recipe = RECIPE,
        validation_steps: Sequence[int] = (1, 2, 3, 4, 6),
        picture_every: int = 1,
        **settings: Any,
    ) -> None:
        if not 0 < level <= 1:
            raise InputError(f"level is {level}: give a share of the noise schedule, above 0 and at most 1")
        super().__init__(network=network, recipe=recipe, validation_steps=validation_steps, **settings)
        self.noises: torch.Generator | None = None
        """Generator of the noise in evaluation."""
        self.level, self.pictures = level, ImageSamples(picture_every)
        self.schedule = NoiseSchedule.linear()

    def configure_callbacks(self) -> list[L.Callback]:
        return [self.pictures] if self.pictures.every else []

    def build(self) -> HubModel:
        size, channels = self.of_data("image_size", "channels")
        return self.network.build(size, channels, self.level, self.steps, self.recipe)

    def landscape(self, batch: Batch) -> Any:
        return self.model.landscape(batch["image"])

    def geometry(self) -> Geometry:
        """Images, for both kinds of model."""
        return Euclidean(1, self.model.config.shape)

    def parts(self, batch: Batch) -> tuple[int, ...]:
        return (len(batch["image"]),)

    def context(self, batch: Batch) -> Tensor:
        return self.start(batch, len(batch["image"]), self.noises)

    def target(self, batch: Batch) -> Tensor:
        return batch["image"]

    def start(self, batch: Batch, rows: int, generator: torch.Generator | None) -> Tensor:
        """Return the noisy images."""
        image = batch["image"][:rows]
        return self.schedule.noised(image, _noise(image, generator), self._levels(batch)[:rows])

    def learn(self, batch: Batch, replayed: Tensor | None = None) -> Outcome:
        if self.thinks:
            return super().learn(batch, replayed)
        image, generator = batch["image"], self.generator(self.device)
        highest = self.schedule.level(self.level)
        t = torch.randint(0, highest + 1, (len(image),), generator=generator, device=image.device)
        noise = _noise(image, generator)
        output = self.model(self.schedule.noised(image, noise, t), t)
        square, bound = self.schedule.loss(output, image, noise, t)
        loss = (square + bound).mean()
        return Outcome(loss, loss.detach().view(1))

    def passes(self, batch: Batch, iterations: int, burn_in: int = 0) -> list[Tensor]:
        noisy, t = self.context(batch), self._levels(batch)
        return [self.schedule.clean(noisy, self.model(noisy, t).chunk(2, 1)[0], t)]

    def on_validation_epoch_start(self) -> None:
        """Seed the noise of evaluations, so that they are comparable between epochs and runs."""
        self.noises = torch.Generator(self.device).manual_seed(EVALUATION_SEED + self.global_rank)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def measure(self, batch: Batch, state: Tensor) -> Sums:
        ratios = psnr(state, batch["image"])
        return {**super().measure(batch, state), "psnr": (ratios.sum(), torch.tensor(len(ratios)))}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return denoised images (B, C, H, W), with the model's own number of steps."""
        with torch.inference_mode(False), torch.no_grad():
            return self.answer({key: value.clone() for key, value in batch.items()})

    def _levels(self, batch: Batch) -> Tensor:
        """Return the noise level t (B,) of each row."""
        image = batch["image"]
        shares = batch["level"].tolist() if "level" in batch else [self.level] * len(image)
        return torch.tensor([self.schedule.level(share) for share in shares], device=image.device)


def _noise(image: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)


class ImageSamples(L.Callback):
    """Add rows of noisy, denoised and clean images to TensorBoard after a validation.

    ``every``: number of validations between pictures.
    """

    def __init__(self, every: int) -> None:
        self.every, self.validations = every, 0

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        if (self.validations - 1) % self.every:
            return
        writers = [logger for logger in trainer.loggers if isinstance(logger, L.pytorch.loggers.TensorBoardLogger)]
        precision = trainer.precision_plugin.forward_context()  # as in steps, which Lightning runs in it
        with torch.inference_mode(False), torch.no_grad(), precision, gathered(pl_module):
            if writers and (picture := self._sample(trainer.val_dataloaders, pl_module)) is not None:
                for logger in writers:
                    logger.experiment.add_image("denoised", picture, trainer.global_step)

    def _sample(self, loaders: Any, task: DenoisingTask) -> Tensor | None:
        """Return noisy, denoised and clean images (C, 3 H, n W) in [0, 1] of the first validation batch, with fixed noise.
        ``None`` for data without images."""
        batch: Batch = next(iter(loaders[0] if isinstance(loaders, list) else loaders), {})
        if "image" not in batch:
            return None
        batch = {key: value[:SHOWN].to(task.device) for key, value in batch.items()}
        kept, task.noises = task.noises, torch.Generator(task.device).manual_seed(0)
        noisy = task.start(batch, len(batch["image"]), torch.Generator(task.device).manual_seed(0))
        found, task.noises = task.answer(batch), kept
        rows = [torch.cat(list(images), -1) for images in (noisy, found, batch["image"])]
        return ((torch.cat(rows, -2).clamp(-1, 1) + 1) / 2).cpu()

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]
