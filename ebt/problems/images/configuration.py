"""Configurations of models of images."""

from __future__ import annotations

from typing import Any, ClassVar

from ebt.errors import InputError
from ebt.models.configuration import TWINS, NetworkFields, ThinkingFields
from ebt.thinking import Euclidean, Gradient


class _ImageFields(NetworkFields):
    """Fields of a model of square images, cut into patches, with Diffusion Transformer blocks.

    ``noise_level``: highest noise level in training, as a share of the noise schedule.
    """

    def __init__(
        self,
        noise_level: float = 0.1,
        num_channels: int = 3,
        image_size: int = 64,
        patch_size: int = 8,
        block: str = "dit",
        conditioning: str = "modulation",
        norm_eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        if num_channels not in (1, 3) or image_size % patch_size:
            given = f"num_channels {num_channels}, image_size {image_size}, patch_size {patch_size}"
            raise InputError(f"{given}: give 1 or 3 channels, and an image_size that is a multiple of patch_size")
        self.num_channels, self.image_size, self.patch_size = num_channels, image_size, patch_size
        self.noise_level = noise_level
        super().__init__(block=block, conditioning=conditioning, norm_eps=norm_eps, **kwargs)
        if self.dim % 4:
            raise InputError(f"dim {self.dim} must be a multiple of 4: positions are sines and cosines of rows and columns")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return self.num_channels, self.image_size, self.image_size

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class EBTImagesConfig(_ImageFields, ThinkingFields):
    """Bidirectional EBT over images of ``image_size`` x ``image_size`` pixels."""

    model_type = "ebt_images"
    unused = ("anchor", "scale_inputs", "rope_theta", "input_gradient", "start_std", "mean_from")
    spaces: ClassVar = {"euclidean": (Euclidean, Gradient())}

    def __init__(self, noise_level: float = 0.1, space: str = "euclidean", **kwargs: Any) -> None:
        super().__init__(noise_level, space=space, **kwargs)


class DiTImagesConfig(_ImageFields):
    """Diffusion Transformer, the baseline of ``EBTImagesConfig``, with a linear schedule of ``noise_levels`` levels."""

    model_type = "ebt_dit_images"
    unused = (*(name for name in TWINS if name != "conditioning"), "rope_theta")

    def __init__(self, noise_level: float = 0.1, noise_levels: int = 1000, **kwargs: Any) -> None:
        self.noise_levels = noise_levels
        super().__init__(noise_level, **kwargs)
        if self.conditioning not in ("none", "modulation"):
            raise InputError(f"conditioning is {self.conditioning!r}: choose modulation, which sees the noise level, or none")
