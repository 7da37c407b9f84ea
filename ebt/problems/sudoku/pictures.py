"""Picture of a board that fills in while the model thinks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ebt.evaluation.style import GIVEN, GREY, RIGHT, WRONG, picture
from ebt.problems.sudoku.configuration import BOXES

PER_ROW = 4


def board_strip(
    result: Mapping[str, Any],
    path: str | Path,
    steps: Sequence[int] = (0, 1, 2, 4, 8, 16, 32),
    solution: Sequence[int] | None = None,
    title: str | None = None,
) -> None:
    """Draw a board after some steps. Givens are bold, the opacity of other digits is their probability.

    Args:
        result: A result of ``watch_board`` as a JSON object.
        path: PNG file to write.
        steps: Steps to show. Those beyond the last step are left out, and the last step is always shown.
        solution: (C,), colours digits as right or wrong.
        title: Title above the picture.
    """
    last = len(result["boards"]) - 1
    shown = sorted({step for step in steps if step <= last} | {last})
    rows = -(-len(shown) // PER_ROW)
    columns = -(-len(shown) // rows)
    with picture(path, width=max(4.0, 2.6 * columns), height=3.2 * rows + 0.6) as figure:
        figure.set_layout_engine("constrained", h_pad=0.08)
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat:
            panel.axis("off")
        for panel, step in zip(panels.flat, shown, strict=False):
            _board(panel, result["puzzle"], result["boards"][step], result["confidence"][step], solution)
            name = "start" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
            energy = f"\nenergy {result['energies'][step]:.3g}" if result["energies"] else ""  # baselines have none
            panel.set_title(name + energy, fontsize=12)
        if title:
            figure.suptitle(title, fontsize=13)
        colours = "" if solution is None else "blue: right, orange: wrong; "
        figure.supxlabel(f"bold: given; {colours}the paler, the less sure", fontsize=10, color=GREY)


def _board(
    axes: Axes, puzzle: Sequence[int], digits: Sequence[int], confidence: Sequence[float], solution: Sequence[int] | None
) -> None:
    size = math.isqrt(len(digits))
    high, wide = BOXES[size]
    axes.set(xlim=(-0.05, size + 0.05), ylim=(size + 0.05, -0.05), aspect="equal")
    for i in range(size + 1):
        axes.plot([0, size], [i, i], color=GIVEN, linewidth=2 if i % high == 0 else 0.5, solid_capstyle="projecting")
        axes.plot([i, i], [0, size], color=GIVEN, linewidth=2 if i % wide == 0 else 0.5, solid_capstyle="projecting")
    for cell, digit in enumerate(digits):
        given = puzzle[cell] > 0
        colour = GIVEN if given else RIGHT if solution is None or digit == solution[cell] else WRONG
        axes.text(
            cell % size + 0.5, cell // size + 0.55, str(digit or ""), color=colour, ha="center", va="center",
            fontsize=78 / size, weight="bold" if given else "normal", alpha=1.0 if given else max(0.12, confidence[cell]),
        )  # fmt: skip
