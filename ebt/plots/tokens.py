"""Heat map of token energies while the model thinks (paper, figure 8)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ebt.plots.style import COLOURS, HEAT, picture

PER_ROW = 40
"""Tokens in one row of panels; a longer text continues below."""


def token_heat_map(result: Mapping[str, Any], path: str | Path, title: str | None = None) -> None:
    """Energies of every token's prediction across steps, above the model's surprise at the true token.

    Args:
        result: a result of ``token_energies`` as a JSON object.
        path: the PNG to write.
        title: above the picture.
    """
    energies, nats = np.array(result["energies"]), np.array(result["nats"])
    labels = [visible(token) for token in result["tokens"]]
    per_row = min(PER_ROW, len(labels))
    starts = range(0, len(labels), per_row)
    longest = max(len(label.lstrip("\\")) for label in labels)
    height = len(starts) * (1.5 + 0.24 * len(energies) + 0.9 + 0.075 * longest) + 0.5
    with picture(path, width=max(8.0, 1.8 + 0.26 * per_row), height=height) as figure:
        panels = figure.subplots(
            2 * len(starts), 1, squeeze=False, height_ratios=[0.24 * len(energies) + 0.2, 0.9] * len(starts)
        )
        image = None
        for row, start in enumerate(starts):
            part = slice(start, start + per_row)
            heat, bars = panels[2 * row, 0], panels[2 * row + 1, 0]
            image = heat.imshow(
                energies[:, part], aspect="auto", cmap=HEAT, vmin=energies.min(), vmax=energies.max(), interpolation="nearest"
            )
            heat.set_ylabel("step")
            heat.set_yticks(_ticks(len(energies)))
            heat.set_xticks([])
            heat.grid(False)
            bars.bar(range(len(nats[part])), nats[part], color=COLOURS[1])
            bars.set_ylim(0, max(1.0, nats.max() * 1.05))
            bars.set_ylabel("surprise\n(nats)")
            bars.grid(axis="x", visible=False)
            bars.set_xticks(
                range(len(labels[part])), labels[part], rotation=90 * (longest > 1), family="monospace", fontsize=10
            )
            for panel in (heat, bars):
                panel.set_xlim(-0.5, per_row - 0.5)
        assert image is not None
        figure.colorbar(image, ax=panels[:, 0].tolist(), label="energy of the prediction (low: sure)", aspect=30, pad=0.01)
        panels[0, 0].set_title(title or "Energy of every token's prediction after each thinking step (0: the start)")


def visible(token: str) -> str:
    """A token with its white space visible, and no character that starts a formula or that fonts lack."""
    shown = (
        token.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u21e5").replace("\r", "\u240d").replace("$", r"\$")
    )
    return "".join(character if character.isprintable() else "\u25a1" for character in shown) or "\u25a1"


def _ticks(rows: int) -> list[int]:
    stride = -(-rows // 9)
    return list(range(0, rows, stride))
