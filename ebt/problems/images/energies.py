"""Pictures of an image model's energies: against the errors, and over the patches of one image while it thinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebt.evaluation.results import to_json, write_json
from ebt.problems.images.metrics import energy_errors
from ebt.problems.images.models import EBTForImages
from ebt.problems.images.pictures import energy_against_error, energy_map
from ebt.problems.images.sources import to_picture

SHOWN = 6
"""Steps of a map, at most."""


def write_energies(folder: Path, model: Any, clean: Tensor, noisy: Tensor, steps: int) -> list[Path]:
    """energy-error.json and .png over all images, and energy-map.png of the first one; nothing of a model without an energy."""
    if not isinstance(model, EBTForImages):
        return []
    written = [folder / "energy-error.json", folder / "energy-error.png", folder / "energy-map.png"]
    result = energy_errors(model, clean, noisy, steps)
    write_json(result, written[0])
    energy_against_error(to_json(result), written[1])
    draw_map(model, noisy[:1], steps, written[2])
    return written


def draw_map(model: EBTForImages, noisy: Tensor, steps: int, path: Path) -> None:
    """Where the model is unsure of one image (1, C, H, W), at the start and after some of the steps."""
    thought = model.think(noisy, steps=steps)
    shown = sorted(set(torch.linspace(0, len(thought.states), min(SHOWN, len(thought.states) + 1)).round().long().tolist()))
    states = [thought.start, *thought.states]
    rows, columns = (size // model.config.patch_size for size in noisy.shape[-2:])
    energies = [thought.energies[i, 0].view(rows, columns).double().cpu().numpy() for i in shown]
    images = [np.array(to_picture(states[i][0])) for i in shown]
    names = ["noisy" if i == 0 else f"step {i}" for i in shown]
    energy_map(images, energies, path, names)
