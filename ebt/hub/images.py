"""Models of images: the bidirectional EBT, and its rival, the Diffusion Transformer (DiT; Peebles and Xie 2023).

Letters: B rows, C channels, H x W pixels with values in [-1, 1], S patches, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ebt.hub.base import HubModel, ThinkingModel, leave_inference_mode, thinking_options
from ebt.hub.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.nn import EBTEncoder, PatchEmbedding, Transformer, unpatchify
from ebt.thinking import Descent, Euclidean, StepSize, Thought, think

FREQUENCIES = 256
"""Sines and cosines of a noise level."""


class EBTForImages(ThinkingModel):
    """One energy a patch, their mean for an image. Thinking starts at the noisy image and needs no other context."""

    config_class = EBTImagesConfig
    main_input_name = "pixel_values"

    def __init__(self, config: EBTImagesConfig) -> None:
        super().__init__(config)
        self.patches = PatchEmbedding(config.num_channels, config.image_size, config.patch_size, config.dim)
        self.network = EBTEncoder(config.network(), config.energy_scale / config.patches)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        self.post_init()

    def landscape(self) -> ImageLandscape:
        """The energy of images (N, C, H, W)."""
        return ImageLandscape(self)

    def space(self) -> Euclidean:
        """Images; one prediction a row."""
        config = self.config
        return Euclidean(1, (config.num_channels, config.image_size, config.image_size), like=self.patches.positions)

    def features(self, image: Tensor) -> Tensor:
        """What the last block makes of images (B, C, H, W), for each patch (B, S, D)."""
        return self.network.hidden(self.patches.places(image), self.patches(image))

    @torch.no_grad()
    def think(
        self,
        pixel_values: Tensor,
        steps: int | None = None,
        candidates: int | None = None,
        tolerance: float | None = None,
        noise: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Thought:
        """Descend from noisy images (B, C, H, W); returns the record of all M x B candidates (see ``ebt.thinking.choose``).

        Candidates differ by their Langevin noise alone. Energies are those of the patches, (T + 1, M x B, S).
        """
        steps, candidates = thinking_options(self.config, steps, candidates)
        std = self.noise(len(pixel_values), candidates) if noise is None else noise
        descent = Descent(steps, clamp=self.config.clamp, tolerance=tolerance, noise=std, final_energy=True)
        with leave_inference_mode():
            start = pixel_values.to(self.patches.positions).repeat(candidates, 1, 1, 1)
            return think(self.landscape(), self.space(), start, self.alpha(), descent, generator)


@dataclass(frozen=True)
class ImageLandscape:
    """The energy of images, the same in every row; see ``ebt.thinking.Landscape``."""

    model: EBTForImages

    def __call__(self, candidate: Tensor, step: int) -> Tensor:
        """Energies (N, S) of images (N, C, H, W), each divided by the number of patches that the model was made for, so that
        a step moves the pixels of larger images as far."""
        model = self.model
        energies = model.network.encode(model.patches.places(candidate).unsqueeze(0))(model.patches(candidate), step)
        return energies / model.config.patches

    def select(self, rows: Tensor) -> ImageLandscape:
        """The landscape of some rows."""
        return self


class LevelEmbedding(nn.Module):
    """A noise level as a condition of the adaptive norms."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(FREQUENCIES, dim), nn.Linear(dim, dim)
        for layer in (self.first, self.second):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, t: Tensor) -> Tensor:
        """Vectors (B, D) of levels (B,)."""
        half = FREQUENCIES // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
        dtype = self.first.weight.dtype
        angle = t.to(torch.promote_types(dtype, torch.float32)).unsqueeze(-1) * frequency
        waves = torch.cat((angle.cos(), angle.sin()), -1).to(dtype)
        return self.second(F.silu(self.first(waves)))


class DiTForImages(HubModel):
    """The same blocks, told the noise level, that predict the noise of an image and the variance of a denoising step."""

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
        """Predicted noise, and place of the variance between its bounds, (B, 2C, H, W), of images at noise levels t (B,)."""
        x = self.patches(pixel_values) + self.patches.places(pixel_values)
        patch = self.config.patch_size
        rows, columns = (size // patch for size in pixel_values.shape[-2:])
        return unpatchify(self.head(self.network(x, self.level(t))), patch, rows, columns)

    def features(self, image: Tensor, t: int = 0) -> Tensor:
        """What the last block makes of images (B, C, H, W) taken as ones at noise level t, for each patch (B, S, D)."""
        condition = self.level(torch.full((len(image),), t, device=image.device))
        return self.network.hidden(self.patches(image) + self.patches.places(image), condition)
