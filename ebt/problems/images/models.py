"""Models of images: the bidirectional EBT and its baseline, the Diffusion Transformer (DiT; Peebles and Xie 2023).

Letters: B rows, C channels, H x W pixels with values in [-1, 1], S patches, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.checks import as_tensor, shown
from ebt.errors import InputError
from ebt.models.base import HubModel, Prediction, ThinkingModel, batch
from ebt.models.thinking import Thinking
from ebt.nn import EBTEncoder, PatchEmbedding, Transformer, unpatchify
from ebt.nn.blocks import Landscape
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.thinking import Geometry, StepSize, Thought

FREQUENCIES = 256
"""Number of sines and cosines that encode a noise level."""
SHARE = 0.75
"""Share of a tile that lies before the next one."""


def pixels(given: Any, name: str, channels: int) -> Tensor:
    """Images as a batch (B, C, H, W) of floating point numbers.

    Raises:
        InputError: If they have another shape, numbers that are not finite, or whole numbers, which are of another scale.
    """
    found = as_tensor(name, given)
    if not found.is_floating_point():
        raise InputError(f"{name} has dtype {found.dtype}: give floating point numbers in [-1, 1], such as bytes / 127.5 - 1")
    return batch(found, name, channels, None, None)


def check_mask(free: Any, images: Tensor) -> None:
    """Raise ``InputError`` if a mask of images (B, C, H, W) is no bool tensor (B, 1, H, W)."""
    if not isinstance(free, Tensor) or free.dtype != torch.bool:
        raise InputError(f"free is {shown(free)}: give a bool tensor, True at the pixels to fill in")
    if free.shape != (len(images), 1, *images.shape[-2:]):
        shapes = f"the mask has shape {tuple(free.shape)}, the images have {tuple(images.shape)}"
        raise InputError(f"{shapes}: make their sizes equal")


class EBTForImages(ThinkingModel):
    """One energy per patch, their mean per image. Thinking starts at the noisy image and has no other context."""

    config_class = EBTImagesConfig
    main_input_name = "pixel_values"
    CONTEXT: ClassVar[tuple[str, ...]] = ("free",)

    def __init__(self, config: EBTImagesConfig) -> None:
        super().__init__(config)
        self.patches = PatchEmbedding(config.num_channels, config.image_size, config.patch_size, config.dim)
        self.network = EBTEncoder(config.network(), config.energy_scale / config.patches)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        for block in self.network.blocks:
            # Adaptive norms start with closed gates, so that the network is the identity at first. Here the zero head ensures
            # that, and all images have the same condition: with open gates the blocks learn from the start.
            if block.modulation is not None:
                block.modulation.projection.bias.detach().view(6, -1)[[2, 5]] = 1
        self.post_init()

    def landscape(self, pixel_values: Tensor, free: Tensor | None = None) -> ImageLandscape:
        """Return the energy of images (N, C, H, W). Where ``free`` (B, 1, H, W) is False, the network sees the given pixels."""
        if free is not None:
            check_mask(free, pixel_values)
        return ImageLandscape(self.network, self, None if free is None else pixel_values.to(self.patches.positions), free)

    def prepared(self, context: Any) -> Tensor:
        """Convert images (B, C, H, W) to a tensor."""
        return pixels(context, "pixel_values", self.config.num_channels)

    def geometry(self) -> Geometry:
        """Images, one prediction per row."""
        return self.config.make_geometry(1, self.config.shape, like=self.patches.positions)

    def parts(self, pixel_values: Tensor, free: Tensor | None = None) -> tuple[int, ...]:
        return (len(pixel_values),)

    def first(self, pixel_values: Tensor, free: Tensor | None = None) -> Tensor:
        """Return the noisy images. Candidates differ only by their Langevin noise."""
        return pixel_values.to(self.patches.positions)

    def answer(self, pixel_values: Tensor, thought: Thought, how: Thinking) -> Tensor:
        """Return clean images (B, C, H, W)."""
        return thought.state.clamp(-1, 1)

    def features(self, image: Tensor) -> Tensor:
        """Return the output of the last block for images (B, C, H, W), per patch: (B, S, D)."""
        return self.network.hidden(self.patches.places(image), self.patches(image.to(self.patches.positions)))

    def forward(self, pixel_values: Tensor, **options: Any) -> Prediction:
        """Denoise images (B, C, H, W). Energies are per patch. For the options see ``think``."""
        thought = self.think(pixel_values, **options)
        return Prediction(thought.answer, thought.energies, thought.steps)

    @torch.no_grad()
    def infill(
        self, pixel_values: Tensor, free: Tensor, steps: int | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Fill in the pixels of images (B, C, H, W) at ``free`` (B, 1, H, W). The other pixels are unchanged.

        Raises:
            InputError: If the mask is no bool tensor, has another size or leaves no pixel known.
        """
        pixel_values = self.prepared(pixel_values)
        start = self.emptied(pixel_values, free, generator)
        state = self.think(start, steps=steps, candidates=1, free=free).state
        return torch.where(free, state.to(pixel_values).clamp(-1, 1), pixel_values)

    def emptied(self, pixel_values: Tensor, free: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images (B, C, H, W) whose pixels at ``free`` (B, 1, H, W) are the mean of the others, with the noise that the
        model was trained to remove.

        Raises:
            InputError: If the mask is no bool tensor, has another size or leaves no pixel known.
        """
        pixel_values = self.prepared(pixel_values)
        check_mask(free, pixel_values)
        counts = (~free).sum((2, 3), keepdim=True)
        if not counts.all():
            raise InputError("the mask leaves no pixel of an image known: mask only a part of it")
        mean = (pixel_values * ~free).sum((2, 3), keepdim=True) / counts
        noise = torch.randn(pixel_values.shape, generator=generator, dtype=pixel_values.dtype).to(pixel_values.device)
        schedule = NoiseSchedule.linear()
        std = (1 - schedule.kept[schedule.level(self.config.noise_level)]).sqrt().item()
        return torch.where(free, mean + std * noise, pixel_values)


@dataclass(frozen=True, eq=False)
class ImageLandscape(Landscape):
    """Energy of images, with or without known pixels. See ``ebt.thinking.Energy``."""

    model: EBTForImages
    known: Tensor | None = None
    free: Tensor | None = None

    @property
    def learning(self) -> tuple[Tensor, ...]:
        """The tensors that the energies depend on and that get gradients."""
        return tuple(parameter for parameter in self.model.parameters() if parameter.requires_grad)

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        """Energies (N, S) of images (N, C, H, W), divided by the number of patches of the training size, so that a step moves
        the pixels of larger images equally far."""
        model = self.model
        if self.known is not None and self.free is not None:
            repeats = len(candidate) // len(self.known), 1, 1, 1
            candidate = torch.where(self.free.repeat(repeats), candidate, self.known.repeat(repeats))
        places, seen = model.patches.places(candidate).unsqueeze(0), model.patches(candidate)
        places = places.expand(len(seen), -1, -1)
        return model.network.energy(places, seen, step, once=self.differentiated_once) / model.config.patches

    def select(self, rows: Tensor) -> ImageLandscape:
        """Return the landscape of some candidate rows (indices into M x B)."""
        if self.known is None or self.free is None:
            return self
        index = rows % len(self.known)
        return replace(self, known=self.known[index], free=self.free[index])


class LevelEmbedding(nn.Module):
    """Embed a noise level as the condition of the adaptive norms."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FREQUENCIES, dim), nn.Linear(dim, dim)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Return vectors (B, D) of levels (B,)."""
        half = FREQUENCIES // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        dtype = self.first.weight.dtype
        angle = t.to(torch.promote_types(dtype, torch.float32)).unsqueeze(-1) * frequency
        waves = torch.cat((angle.cos(), angle.sin()), -1).to(dtype)
        return self.second(F.silu(self.first(waves)))


class DiTForImages(HubModel):
    """The same blocks, conditioned on the noise level, that predict the noise of an image and the variance of a step."""

    config_class = DiTImagesConfig
    main_input_name = "pixel_values"

    def __init__(self, config: DiTImagesConfig) -> None:
        super().__init__(config)
        self.patches = PatchEmbedding(config.num_channels, config.image_size, config.patch_size, config.dim)
        self.level = LevelEmbedding(config.dim)
        self.network = Transformer(config.network())
        self.head = nn.Linear(config.dim, config.patch_size**2 * 2 * config.num_channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.post_init()

    def forward(self, pixel_values: Tensor, t: Tensor) -> Tensor:
        """Predict the noise, and the position of the variance between its bounds, (B, 2C, H, W), at noise levels t (B,)."""
        x = self.patches(pixel_values) + self.patches.places(pixel_values)
        patch = self.config.patch_size
        rows, columns = (size // patch for size in pixel_values.shape[-2:])
        return unpatchify(self.head(self.network(x, self.level(t))), patch, rows, columns)

    def prepared(self, context: Any) -> Tensor:
        """Convert images (B, C, H, W) to a tensor."""
        return pixels(context, "pixel_values", self.config.num_channels)

    @torch.no_grad()
    def denoise(
        self, pixel_values: Tensor, level: float | None = None, steps: int = 1, rounds: int = 1, trained_only: bool = False
    ) -> Tensor:
        """Denoise images (B, C, H, W) by DDIM without noise. One step is the direct estimate of the clean image.

        Args:
            pixel_values: Noisy images (B, C, H, W).
            level: Their noise level, as a share of the schedule. The model's own by default.
            steps: Function evaluations per round, evenly spread over the noise levels.
            rounds: Number of rounds. Each denoises the result of the last one as a noisy image.
            trained_only: Whether to start at the highest level of training if ``level`` is above it.

        Raises:
            InputError: If ``steps`` or ``rounds`` is below 1, or the noise level is invalid.
        """
        if min(steps, rounds) < 1:
            raise InputError(f"steps {steps}, rounds {rounds}: denoising needs at least 1 of each")
        schedule, config = NoiseSchedule.linear(self.config.noise_levels), self.config
        level = config.noise_level if level is None else level
        highest = schedule.level(min(level, config.noise_level) if trained_only else level)
        levels = torch.linspace((highest + 1) / steps - 1, highest, steps).round().clamp(min=0).long().unique()
        sampler, x = schedule.respaced(levels).sampler("ddim"), self.prepared(pixel_values).to(self.head.weight)
        for _ in range(rounds):
            for i, t in reversed(list(enumerate(levels.tolist()))):
                noise = self(x, torch.full((len(x),), t, device=x.device)).chunk(2, 1)[0]
                x = sampler.step(noise, i, x, use_clipped_model_output=True).prev_sample
        return x

    predict = denoise

    def features(self, image: Tensor, t: int = 0) -> Tensor:
        """See ``EBTForImages.features``. The images are treated as being at noise level t."""
        image = image.to(self.patches.positions)
        condition = self.level(torch.full((len(image),), t, device=image.device))
        return self.network.hidden(self.patches(image) + self.patches.places(image), condition)


def pad_to(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Extend an image (C, H, W) by reflection, below and to the right, to at least ``height`` x ``width``."""
    missing = [max(0, wanted - length) for wanted, length in zip((height, width), image.shape[1:], strict=True)]
    return np.pad(image, ((0, 0), (0, missing[0]), (0, missing[1])), mode="symmetric") if any(missing) else image


def by_tiles(denoise: Callable[[Tensor], Tensor], image: Tensor, size: int, batch_size: int = 32) -> Tensor:
    """Apply a function of tiles (B, C, size, size) to an image (C, H, W) of any size. It may return other channels than C.

    A smaller image is extended by reflection and cropped back. Where tiles overlap, pixels are weighted by their distance from
    the border of the tile.
    """
    height, width = image.shape[-2:]
    whole = torch.from_numpy(pad_to(image.numpy(), size, size))
    corners = [(top, left) for top in _places(whole.shape[1], size) for left in _places(whole.shape[2], size)]
    pieces = torch.stack([whole[:, top : top + size, left : left + size] for top, left in corners])
    found = torch.cat([denoise(part) for part in pieces.split(batch_size)])
    ramp = 1 + torch.minimum(torch.arange(size), torch.arange(size).flip(0)).to(found)
    window, weight = ramp.outer(ramp), found.new_zeros(whole.shape[1:])
    total = found.new_zeros(found.shape[1], *whole.shape[1:])
    for (top, left), piece in zip(corners, found, strict=True):
        total[:, top : top + size, left : left + size] += window * piece
        weight[top : top + size, left : left + size] += window
    return (total / weight)[:, :height, :width]


def _places(length: int, size: int) -> list[int]:
    """Positions of tiles. The first and the last touch the border."""
    count = math.ceil((length - size) / (size * SHARE)) + 1
    return [round(i * (length - size) / max(1, count - 1)) for i in range(count)]
