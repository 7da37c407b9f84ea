"""Tiny image models with random weights, folders of them and of images, for the tests of evaluation and commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from small_models import SIZES, scramble
from torch import Tensor

from ebt.problems.folder import save_folder
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.models import DiTForImages, EBTForImages

SHAPE = {"num_channels": 3, "image_size": 16, "patch_size": 4}


def image_ebt(**config: Any) -> EBTForImages:
    return scramble(EBTForImages(EBTImagesConfig(**{**SIZES, **SHAPE, "step_size": 0.1, "steps": 2, **config})))


def image_dit(**config: Any) -> DiTForImages:
    return scramble(DiTForImages(DiTImagesConfig(**SIZES, **SHAPE, **config)))


def image_folder(folder: Path, dit: bool = False) -> str:
    """A saved model of images of 16 x 16 pixels."""
    return str(save_folder(image_dit() if dit else image_ebt(), folder))


def smooth_images(rows: int = 4, size: int = 16, seed: int = 0) -> Tensor:
    """Colour gradients (rows, 3, size, size) in double precision."""
    corners = torch.rand(rows, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(corners, (size, size), mode="bilinear", align_corners=True).double()


def noisy_images(images: Tensor, level: float = 0.1) -> Tensor:
    return NoiseSchedule.linear().noisy(images, level)


def photo_folder(folder: Path, count: int = 4, size: int = 24) -> str:
    """A folder of PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(smooth_images(count, size)):
        array = ((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(array)).save(folder / f"{i}.png")
    return str(folder)
