"""Pictures of images: side by side, with maps of their energy, and energy against error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Tensor

from ebt.evaluation.style import COLOURS, HEAT, picture
from ebt.files import write_json
from ebt.problems.images.metrics import EnergyErrors, energy_errors
from ebt.problems.images.models import EBTForImages
from ebt.problems.images.sources import to_picture

SHOWN = 6
"""Maximum number of steps in an energy map."""


def show(axes: Axes, image: np.ndarray, name: str = "", **options: Any) -> Any:
    """Show an image (H, W) or (H, W, 3), 8 bits, without axes, under its name. For the options see ``imshow``."""
    axes.set_title(name, fontsize=11)
    axes.tick_params(bottom=False, left=False, labelbottom=False, labelleft=False)  # other axes may share the ticks
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return axes.imshow(image, **{"cmap": "gray", "vmin": 0, "vmax": 255, **options})


def film_strip(rows: Mapping[str, Sequence[np.ndarray]], names: Sequence[str], path: str | Path, width: float = 1.2) -> None:
    """Draw rows of images.

    Args:
        rows: Images (h, w) or (h, w, 3), 8 bits, by the name of the row.
        names: Titles above the images of the first row.
        path: PNG file to write.
        width: Width of an image, in units of 100 pixels.
    """
    high, wide = next(iter(rows.values()))[0].shape[:2]
    with picture(path, width * len(names) + any(rows), (width * high / wide + 0.05) * len(rows) + 0.5, None) as figure:
        grid = figure.subplots(len(rows), len(names), squeeze=False)
        for row, (label, images) in enumerate(rows.items()):
            for axes, image, name in zip(grid[row], images, names, strict=True):
                show(axes, image, "" if row else name)
            grid[row][0].set_ylabel(label)


def write_energies(folder: Path, model: Any, clean: Tensor, noisy: Tensor, steps: int) -> list[Path]:
    """Write energy-error.json and .png for all images, and energy-map.png for the first. Nothing without an energy."""
    if not isinstance(model, EBTForImages):
        return []
    written = [folder / "energy-error.json", folder / "energy-error.png", folder / "energy-map.png"]
    result = energy_errors(model, clean, noisy, steps)
    write_json(result, written[0])
    _energy_against_error(result, written[1])
    _energy_map(model, noisy[:1], steps, written[2])
    return written


def _energy_map(model: EBTForImages, noisy: Tensor, steps: int, path: Path) -> None:
    """Draw one image (1, C, H, W) at the start and after some steps, above the energies of its patches. Patches are bright
    where the model is unsure."""
    thought = model.think(noisy, steps=steps)
    shown = sorted(set(torch.linspace(0, len(thought.states), min(SHOWN, len(thought.states) + 1)).round().long().tolist()))
    states = [thought.start, *thought.states]
    patches = thought.energies[shown, 0].double().cpu().unflatten(1, (noisy.shape[-2] // model.config.patch_size, -1)).numpy()
    colours = {"cmap": HEAT, "vmin": patches.min(), "vmax": patches.max()}
    with picture(path, width=2.4 * len(shown) + 0.8, height=5.4, colours=None) as figure:
        grid = figure.subplots(2, len(shown), squeeze=False)
        for above, below, i, energy in zip(*grid, shown, patches, strict=True):
            show(above, np.array(to_picture(states[i][0])), f"step {i}" if i else "noisy")
            heat = show(below, energy, f"{energy.mean():.3g}", **colours)
        figure.colorbar(heat, ax=grid[1].tolist(), label="energy of a patch", shrink=0.8)


def _energy_against_error(result: EnergyErrors, path: Path) -> None:
    """Plot error against energy of single patches, with one colour per number of steps."""
    energies, errors, steps = (np.array(values) for values in (result.energies, result.errors, result.steps))
    with picture(path) as figure:
        axes = figure.subplots()
        for i, step in enumerate(sorted(set(result.steps))):
            chosen = steps == step
            label = f"after {step} step{'s' * (step > 1)}" if step else "noisy"
            label = f"{label} ({result.by_step[step]:.2f})"
            axes.scatter(energies[chosen], errors[chosen], s=6, alpha=0.5, color=COLOURS[i % len(COLOURS)], label=label)
        axes.set_xlabel("energy of a patch")
        axes.set_ylabel("error of a patch (root mean square)")
        axes.set_title(f"rank correlation {result.spearman:.2f} over patches and steps")
        axes.legend(markerscale=3)
