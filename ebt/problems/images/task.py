"""Denoising of images: by thinking from the noisy image, or by a Diffusion Transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.models.exploration import Explored
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.images.samples import ImageSamples
from ebt.thinking import Euclidean, Geometry, Recipe
from ebt.training.model_task import ModelTask, Network
from ebt.training.optimisation import Optimisation
from ebt.training.task import OPTIMISATION, Batch, Outcome, Sums

RECIPE = Recipe(min_steps=1, max_steps=2)
EVALUATION_SEED = 20_250_702
PEAK = 4.0
"""Square of the range of pixels, [-1, 1]."""


@dataclass(frozen=True)
class DenoisingNetwork(Network):
    """A model of images: ``ebt``, whose head is quadratic by default, or ``dit``, the Diffusion Transformer."""

    kind: Literal["ebt", "dit"] = "ebt"
    patch_size: int = 8
    spaces: ClassVar = EBTImagesConfig.spaces
    unused: ClassVar = ("anchor", "input_gradient")
    recipe: ClassVar = RECIPE
    unused_recipe: ClassVar = ("start_std", "rows_at_once")

    def build(self, size: int, channels: int, level: float, steps: int, recipe: Recipe = RECIPE) -> HubModel:
        """The model with fresh weights."""
        shape: dict[str, Any] = {
            "image_size": size,
            "num_channels": channels,
            "patch_size": self.patch_size,
            "noise_level": level,
        }
        if self.kind == "dit":
            return DiTForImages(DiTImagesConfig(**shape, **self.sizes()))
        fields = {"head": "quadratic", **self.thinking(recipe, steps)}
        return EBTForImages(EBTImagesConfig(**shape, **self.sizes(), **fields))


NETWORK = DenoisingNetwork()


class DenoisingTask(ModelTask):
    """Remove the noise of images; smooth L1 loss.

    Batches have ``image`` (B, C, H, W), values in [-1, 1]; an evaluation batch may have ``level`` (B,), the noise level of its
    rows, where it is not ``level``. An EBT starts at the noisy image. A Diffusion Transformer learns all noise levels up to
    ``level`` by its own loss, and is evaluated by its direct estimate; ``ebt think`` compares whole trajectories.

    Args:
        network: the model.
        level: the noise to remove, as a share of the linear schedule: 0.1 leaves 90 % of the signal's power.
        picture_every: validations between pictures in TensorBoard; 0 for none.
        recipe, optimisation, validation_steps, settings: see ``ThinkingTask``.

    Logged beside the losses: psnr, in dB. Energies are means over the patches of an image.
    """

    def __init__(
        self,
        network: DenoisingNetwork = NETWORK,
        level: float = 0.1,
        recipe: Recipe = RECIPE,
        optimisation: Optimisation = OPTIMISATION,
        validation_steps: Sequence[int] = (1, 2, 3, 4, 6),
        picture_every: int = 1,
        **settings: Any,
    ) -> None:
        network.check(recipe)
        if not 0 < level <= 1:
            raise InputError(f"level is {level}: give a share of the noise schedule, above 0 and at most 1")
        super().__init__(recipe=recipe, optimisation=optimisation, validation_steps=validation_steps, **settings)
        self._noises: torch.Generator | None = None
        self.network, self.level, self.pictures = network, level, ImageSamples(picture_every)

    def configure_callbacks(self) -> list[L.Callback]:
        return [self.pictures] if self.pictures.every else []

    def build(self) -> HubModel:
        size, channels = self.of_data("image_size", "channels")
        return self.network.build(size, channels, self.level, self.steps, self.recipe)

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """The noise levels."""
        return NoiseSchedule.linear()

    def landscape(self, batch: Batch) -> Any:
        return self.model.landscape(batch["image"])

    def geometry(self) -> Geometry:
        """Images, for both kinds of models."""
        config = self.model.config
        return Euclidean(1, (config.num_channels, config.image_size, config.image_size))

    def context(self, batch: Batch) -> Tensor:
        return batch["image"][:, 0, 0, 0]

    def target(self, batch: Batch) -> Tensor:
        return batch["image"]

    def start(self, batch: Batch, rows: int, generator: torch.Generator | None) -> Tensor:
        """The noisy images."""
        image = batch["image"][:rows]
        return self.schedule.noised(image, self._noise(image, generator), self._levels(batch)[:rows])

    def learn(self, batch: Batch, replayed: Tensor | None = None) -> Outcome:
        if self.thinks:
            return super().learn(batch, replayed)
        image, generator = batch["image"], self.generator(self.device)
        highest = self.schedule.level(self.level)
        t = torch.randint(0, highest + 1, (len(image),), generator=generator, device=image.device)
        noise = self._noise(image, generator)
        output = self.model(self.schedule.noised(image, noise, t), t)
        square, bound = self.schedule.loss(output, image, noise, t)
        loss = (square + bound).mean()
        return Outcome(loss, loss.detach().view(1))

    def explore(self, batch: Batch, steps: Sequence[int]) -> Explored | Sequence[Tensor]:
        noisy = self.start(batch, len(batch["image"]), self._noises)
        if self.thinks:
            found: Explored = self.model.explore(noisy, steps, (self.thinking().candidates,))
            return found
        t = self._levels(batch)
        return [self.schedule.clean(noisy, self.model(noisy, t).chunk(2, 1)[0], t)]

    def on_validation_epoch_start(self) -> None:
        """Evaluations draw their noise from a seed of their own, so that they can be compared between epochs and runs."""
        self._noises = torch.Generator(self.device).manual_seed(EVALUATION_SEED + self.global_rank)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def measure(self, batch: Batch, state: Tensor) -> Sums:
        error = (state.clamp(-1, 1) - batch["image"]).square().flatten(1).mean(1)
        psnr = 10 * torch.log10(PEAK / error.clamp(min=1e-10))
        return {**super().measure(batch, state), "psnr": (psnr.sum(), torch.tensor(len(psnr)))}

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Denoised images (B, C, H, W), with the model's own number of steps."""
        with torch.inference_mode(False), torch.no_grad():
            batch = {key: value.clone() for key, value in batch.items()}
            return self.answer(batch)

    def _noise(self, image: Tensor, generator: torch.Generator | None) -> Tensor:
        return torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)

    def _levels(self, batch: Batch) -> Tensor:
        """The noise level t (B,) of each row."""
        image = batch["image"]
        shares = batch["level"].tolist() if "level" in batch else [self.level] * len(image)
        return torch.tensor([self.schedule.level(share) for share in shares], device=image.device)
