"""Pictures of images: side by side, where energy is high, and energy against error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ebt.evaluation.style import COLOURS, HEAT, picture

WIDEST = 8
"""Images of a row, at most."""


def side_by_side(images: Mapping[str, np.ndarray], path: str | Path, title: str | None = None) -> None:
    """Images in a row, each under its name.

    Args:
        images: (H, W) or (H, W, 3), 8 bits.
        path: the PNG to write.
        title: above the picture.
    """
    height, width = next(iter(images.values())).shape[:2]
    with picture(path, width=3.0 * len(images), height=3.0 * height / width + (0.9 if title else 0.5)) as figure:
        for axes, (name, image) in zip(np.atleast_1d(figure.subplots(1, len(images))), images.items(), strict=True):
            _show(axes, image, name)
        if title:
            figure.suptitle(title)


def energy_map(
    images: Sequence[np.ndarray],
    energies: Sequence[np.ndarray],
    path: str | Path,
    names: Sequence[str],
    title: str | None = None,
) -> None:
    """Images in a row, and below each one the energy of its patches: bright where the model is unsure.

    Args:
        images: (H, W) or (H, W, 3), 8 bits.
        energies: (rows, columns) of patches, for each image.
        path: the PNG to write.
        names: above each image.
        title: above the picture.
    """
    low, high = (float(reduce([float(reduce(energy)) for energy in energies])) for reduce in (np.min, np.max))
    with picture(path, width=2.4 * len(images) + 0.8, height=5.4) as figure:
        grid = figure.subplots(2, len(images), squeeze=False)
        for above, below, image, energy, name in zip(*grid, images, energies, names, strict=True):
            _show(above, image, name)
            shown = below.imshow(energy, cmap=HEAT, vmin=low, vmax=high)
            _show(below, None, f"{energy.mean():.3g}")
        figure.colorbar(shown, ax=grid[1].tolist(), label="energy of a patch", shrink=0.8)
        if title:
            figure.suptitle(title)


def _show(axes: Axes, image: np.ndarray | None, name: str) -> None:
    if image is not None:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(name, fontsize=11)
    axes.set_axis_off()


def energy_against_error(result: Mapping[str, Any], path: str | Path, title: str | None = None) -> None:
    """Energy and error of single patches, a colour for each number of steps.

    Args:
        result: of ``energy_errors``, as a JSON object.
        path: the PNG to write.
        title: above the picture.
    """
    energies, errors, steps = (np.array(result[name]) for name in ("energies", "errors", "steps"))
    with picture(path) as figure:
        axes = figure.subplots()
        for i, step in enumerate(sorted(set(steps.tolist()))):
            chosen = steps == step
            label = "noisy" if step == 0 else f"after {step} step{'s' * (step > 1)}"
            rank = result["by_step"][step]
            axes.scatter(
                energies[chosen], errors[chosen], s=6, alpha=0.5, color=COLOURS[i % len(COLOURS)], label=f"{label} ({rank:.2f})"
            )
        axes.set_xlabel("energy of a patch")
        axes.set_ylabel("error of a patch (root mean square)")
        axes.set_title(title or f"rank correlation {result['spearman']:.2f} over patches and steps")
        axes.legend(markerscale=3)
