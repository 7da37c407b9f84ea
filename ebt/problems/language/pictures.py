"""Heat map of token energies across thinking steps (paper, figure 8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from ebt.evaluation.style import COLOURS, HEAT, picture

PER_ROW = 40
"""Maximum number of tokens in a row of panels. A longer text continues below."""
TITLE = "Energy of every token's prediction after each thinking step (0: the start)"
SIGNS = str.maketrans({" ": "\u2423", "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d"})

Numbers = npt.NDArray[np.float64]


def token_heat_map(result: Mapping[str, Any], path: str | Path, title: str = TITLE) -> None:
    """Draw the energies of token predictions across steps, above the model's surprise at the true tokens.

    Args:
        result: A result of ``token_energies`` as a JSON object.
        path: PNG file to write.
        title: Title above the picture.
    """
    energies, nats = np.array(result["energies"]), np.array(result["nats"])
    labels = [visible(token).replace("$", r"\$") for token in result["tokens"]]  # $ starts a formula
    rows = -(-len(labels) // PER_ROW)
    per_row, longest = -(-len(labels) // rows), max(len(visible(token)) for token in result["tokens"])
    heights = 0.24 * len(energies) + 0.2, 0.9
    height = rows * (sum(heights) + 1.3 + 0.075 * longest) + 0.5
    with picture(path, width=max(8.0, 1.8 + 0.26 * per_row), height=height, colours=None) as figure:
        panels = figure.subplots(2 * rows, 1, squeeze=False, height_ratios=heights * rows)[:, 0]
        for row in range(rows):
            part = slice(row * per_row, (row + 1) * per_row)
            image = _heat(panels[2 * row], energies[:, part], energies[1:])
            _surprises(panels[2 * row + 1], nats[part], nats.max(), labels[part], longest > 1)
            for panel in panels[2 * row : 2 * row + 2]:
                panel.set_xlim(-0.5, per_row - 0.5)
        label = "energy of the prediction (low: sure)"
        figure.colorbar(image, ax=panels.tolist(), label=label, extend=_outside(energies), aspect=30, pad=0.01)
        panels[0].set_title(title)


def visible(token: str) -> str:
    """Make the white space of a token visible. Characters that cannot be printed become squares."""
    shown = token.translate(SIGNS)
    return "".join(character if character.isprintable() else "\u25a1" for character in shown) or "\u25a1"


def _heat(axes: Axes, energies: Numbers, scale: Numbers) -> AxesImage:
    """Draw a heat map with the colours of ``scale``, the energies after the first step: random starts lie far above."""
    image = axes.imshow(
        energies, aspect="auto", cmap=HEAT, vmin=scale.min(), vmax=scale.max(), interpolation="nearest", origin="lower"
    )
    axes.set_ylabel("step")
    axes.set_yticks(range(0, len(energies), -(-len(energies) // 9)))
    axes.set_xticks([])
    axes.grid(False)
    return image


def _outside(energies: Numbers) -> str:
    """Whether start energies exceed the colour scale, as ``extend`` of the colour bar."""
    below, above = energies[0].min() < energies[1:].min(), energies[0].max() > energies[1:].max()
    return "both" if below and above else "min" if below else "max" if above else "neither"


def _surprises(axes: Axes, nats: Numbers, most: float, labels: list[str], upright: bool) -> None:
    axes.bar(range(len(nats)), nats, color=COLOURS[1])
    axes.set_ylim(0, max(1.0, most * 1.05))
    axes.set_ylabel("surprise\n(nats)")
    axes.grid(axis="x", visible=False)
    axes.set_xticks(range(len(labels)), labels, rotation=90 if upright else 0, family="monospace", fontsize=10)
