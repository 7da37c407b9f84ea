"""Denoising metrics: quality against thinking steps, and whether energy indicates where the errors are.

Letters: B images, C channels, H x W pixels with values in [-1, 1], S patches of p x p, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.regression import spearman_corrcoef

from ebt.errors import InputError
from ebt.evaluation.measure import Scorer, Tally, measure
from ebt.evaluation.results import Curve, Measure, Point
from ebt.models.exploration import Explored
from ebt.thinking import Thought

MEASURE = Measure("psnr", "PSNR (dB)", "image", higher=True)


@dataclass(frozen=True)
class ImagePoint(Point):
    """Quality of denoised images. Means are over images."""

    psnr: float
    """Peak signal-to-noise ratio, in dB."""
    psnr_error: float | None
    """Standard error of ``psnr`` over images. ``None`` for a single image."""
    mse: float
    """Mean squared error of pixels in [0, 1]."""
    psnrs: list[float]
    """PSNR of every image, for paired comparisons."""


SAMPLE = 2000
"""Maximum number of pairs of energy and error kept for pictures."""


def square_errors(found: Tensor, images: Tensor) -> Tensor:
    """Mean squared error (B,) of pixels in [0, 1]. Values outside are clipped."""
    return ((found.clamp(-1, 1) - images) / 2).square().flatten(1).mean(1)


def psnr(found: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB."""
    return -10 * square_errors(found, images).clamp(min=1e-10).log10()


def ssim(found: Tensor, images: Tensor) -> float | None:
    """Mean structural similarity, in [-1, 1]. ``None`` for images smaller than the 11 pixels of its window."""
    if min(images.shape[-2:]) < 11:
        return None
    similarity: Any = structural_similarity_index_measure(found.clamp(-1, 1), images, data_range=2.0)
    return float(similarity)


def image_curve(
    model: Any,
    images: Tensor,
    noisy: Tensor,
    steps: Sequence[int],
    level: float | None = None,
    batch_size: int = 32,
    **options: Any,
) -> Curve[ImagePoint]:
    """Measure the PSNR of an EBT after each number of steps, or of a Diffusion Transformer by DDIM with as many evaluations.

    Args:
        model: An ``EBTForImages`` or ``DiTForImages``.
        images: Clean images (B, C, H, W).
        noisy: The same images with noise (B, C, H, W).
        steps: Numbers of steps to measure.
        level: Noise level, as a share of the schedule. Required by a Diffusion Transformer.
        batch_size: Number of images at once.
        **options: See ``ebt.evaluation.measure.measure``.

    Raises:
        InputError: If there are no images, or a number of steps is below 1.
    """
    if not len(images) or images.shape != noisy.shape:
        raise InputError(f"images {tuple(images.shape)}, noisy {tuple(noisy.shape)}: give one or more, of the same shape.")
    batches = ((images[rows], noisy[rows]) for rows in torch.arange(len(images)).split(batch_size))
    scorer, total = _Images(level), len(images)
    return measure(model, scorer, batches, steps, total=total, kind="looped", **options)


Pair = tuple[Tensor, Tensor]
"""Clean and noisy images."""


class _Images(Scorer[ImagePoint]):
    task = "images"
    measure = MEASURE

    def __init__(self, level: float | None) -> None:
        self.level = level

    def context(self, batch: Pair, device: torch.device) -> Tensor:
        return batch[1].to(device)

    def rows(self, batch: Pair) -> int:
        return len(batch[0])

    scored = rows

    def score(self, batch: Pair, won: Thought, found: Explored, steps: int, candidates: int) -> dict[str, Tensor]:
        return {"error": square_errors(won.state.to(batch[0]), batch[0])}

    def passes(self, model: Any, batch: Pair, steps: Sequence[int]) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        for step in steps:
            found = model.denoise(self.context(batch, model.device), self.level, step)
            yield step, float(step), {"error": square_errors(found.to(batch[0]), batch[0])}

    def point(self, common: dict[str, Any], tally: Tally) -> ImagePoint:
        ratio = -10 * tally["error"].clamp(min=1e-10).log10()
        error = ratio.std().item() / math.sqrt(len(ratio)) if len(ratio) > 1 else None
        mean = ratio.mean().item()
        return ImagePoint(**common, psnr=mean, psnr_error=error, mse=tally.mean("error"), psnrs=ratio.tolist())


@dataclass(frozen=True)
class EnergyErrors:
    """Relation of the energies and the errors of patches, over all patches, images and steps."""

    spearman: float
    """Rank correlation over all pairs."""
    by_step: list[float]
    """Rank correlation after each number of steps, from 0."""
    energies: list[float]
    """Energies of a sample of patches."""
    errors: list[float]
    """Root mean square errors of the same patches."""
    steps: list[int]
    """Number of steps after which each was measured."""


@torch.no_grad()
def energy_errors(model: Any, images: Tensor, noisy: Tensor, steps: int, batch_size: int = 32) -> EnergyErrors:
    """Return energies and errors of all patches of images (B, C, H, W), at the start and after each step."""
    energies, errors = list[Tensor](), list[Tensor]()
    for clean, given in zip(images.split(batch_size), noisy.split(batch_size), strict=True):
        thought = model.think(given, steps=steps)
        energies.append(thought.energies.float())
        errors.append(patch_errors(torch.stack([thought.start, *thought.states]), clean, model.config.patch_size))
    energy, error = torch.cat(energies, 1), torch.cat(errors, 1)
    index = torch.randperm(energy.numel(), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    step = torch.arange(len(energy)).view(-1, 1, 1).expand_as(energy)
    by_step = [_rank(one, other) for one, other in zip(energy, error, strict=True)]
    return EnergyErrors(_rank(energy, error), by_step, *(part.flatten()[index].tolist() for part in (energy, error, step)))


def _rank(energy: Tensor, error: Tensor) -> float:
    return spearman_corrcoef(energy.flatten().double(), error.flatten().double()).item()


def patch_errors(states: Tensor, images: Tensor, patch: int) -> Tensor:
    """Root mean square error (T, B, S) of each patch of the states (T, B, C, H, W)."""
    return F.avg_pool2d((states - images).square().mean(2), patch).sqrt().flatten(2)
