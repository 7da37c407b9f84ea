"""The images problem as seen by the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebt.errors import InputError
from ebt.evaluation.results import Curve, Progress
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.metrics import MEASURE, ImagePoint, image_curve
from ebt.problems.images.models import DiTForImages, EBTForImages, pixels
from ebt.problems.registry import HeldOut, Problem, Request, late, run_data, same, tensors, unknown_data


class Images(Problem):
    """Removal of noise from images."""

    name = "images"
    models = (EBTForImages, DiTForImages)
    task = late("ebt.problems.images.task:DenoisingTask")
    data = late("ebt.problems.images.data:ImageDataModule")
    measure = MEASURE
    columns = ("PSNR dB", "mse")
    options = ("tolerance", "noise")

    def cells(self, point: ImagePoint) -> list[str]:
        error = "" if point.psnr_error is None else f" ±{point.psnr_error:.2f}"
        return [f"{point.psnr:.2f}{error}", f"{point.mse:.5f}"]

    def told(self, point: ImagePoint) -> str:
        return f"{point.psnr:.2f} dB"

    def held_out(self, request: Request) -> HeldOut:
        """Up to ``limit`` crops (64 by default) of the run's own images, or of a source, with noise."""
        from ebt.problems.images.data import Crops
        from ebt.problems.images.sources import open_images

        config, limit, seed = request.model.config, request.limit or 64, request.seed
        same("size or channels", [(m.config.image_size, m.config.num_channels) for m in request.models.values()])
        level = request.noise or config.noise_level
        if request.data is not None:
            images, name = open_images(request.data), Path(request.data).name
            chosen = images.get(request.split, images["train"])
        else:
            if (settings := run_data(request.checkpoint, self.data)) is None:
                raise unknown_data(request.checkpoint)
            data = self.data(**{**settings, "num_workers": 0})
            data.prepare()
            if request.split not in data.sets:
                raise InputError(f"The run has no {request.split} images: use another --split, or give the data with --data.")
            chosen, name = data.sets[request.split], f"{request.split} images of {settings.get('source', 'the run')}"
        crops = Crops(chosen, config.image_size, config.num_channels, -(-limit // len(chosen)), seed)
        where = np.linspace(0, len(crops) - 1, min(limit, len(crops))).round().astype(int).tolist()
        clean = torch.stack([crops[i]["image"] for i in where])
        noisy = NoiseSchedule.linear().noisy(clean, level, seed)
        return HeldOut(f"{name}, noise {level:g}", len(clean), (clean, noisy, level))

    def given(self, model: Any, data: Any) -> tuple[Any, ...]:
        """Clean and noisy images (B, C, H, W), and for a Diffusion Transformer the noise level."""
        pair, level = (data[:2], data[2]) if isinstance(data, (tuple, list)) and len(data) == 3 else (data, None)
        names = "clean images", "noisy images"
        parts = tensors(pair, *names)
        clean, noisy = (pixels(*part, model.config.num_channels) for part in zip(parts, names, strict=True))
        return clean, noisy, level

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[ImagePoint]:
        clean, noisy, level = held_out.data
        return image_curve(model, clean, noisy, steps, level, progress=bar, **options)

    def pictures(self, folder: Path, request: Request, held_out: HeldOut, steps: int) -> list[Path]:
        """Draw energies of patches against their errors, and maps of them."""
        from ebt.problems.images.pictures import write_energies

        clean, noisy, _ = held_out.data
        return write_energies(folder, request.model, clean, noisy, steps)


PROBLEM = Images()
