"""Picture of a path that appears in a maze while the model thinks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from ebt.evaluation.style import GIVEN, GREY, RIGHT, WRONG, picture
from ebt.problems.mazes.grids import GOAL, START, WALL

PER_ROW = 4


def maze_strip(
    result: Mapping[str, Any],
    path: str | Path,
    steps: Sequence[int] = (0, 1, 2, 4, 8, 16, 32),
    solution: npt.ArrayLike | None = None,
    title: str | None = None,
) -> None:
    """Draw a maze after some steps. The stronger the colour of a square, the more probably it lies on the path.

    Args:
        result: A result of ``watch_maze`` as a JSON object.
        path: PNG file to write.
        steps: Steps to show. Those that were not taken are left out, and the last step is always shown.
        solution: The path (C,), colours squares on it and off it differently.
        title: Title above the picture.
    """
    first = 0 if result["energies"] else 1  # baselines have no start
    last = len(result["path"]) - 1 + first
    shown = sorted({step for step in steps if first <= step <= last} | {last})
    rows = -(-len(shown) // PER_ROW)
    columns = -(-len(shown) // rows)
    with picture(path, width=max(4.0, 2.6 * columns), height=3.2 * rows + 0.6) as figure:
        figure.set_layout_engine("constrained", h_pad=0.08)
        panels = figure.subplots(rows, columns, squeeze=False)
        for panel in panels.flat:
            panel.axis("off")
        for panel, step in zip(panels.flat, shown, strict=False):
            _maze(panel, np.array(result["maze"]), np.array(result["path"][step - first]), solution)
            name = "start" if step == 0 else f"after {step} step{'s' if step > 1 else ''}"
            energy = f"\nenergy {result['energies'][step]:,.0f}" if result["energies"] else ""
            panel.set_title(name + energy, fontsize=12)
        if title:
            figure.suptitle(title, fontsize=13)
        colours = "" if solution is None else "; blue squares are on it, orange ones are not"
        figure.supxlabel(f"The darker, the more probably on the path{colours}", fontsize=10, color=GREY)


def _maze(axes: Axes, maze: npt.NDArray[Any], path: npt.NDArray[Any], solution: npt.ArrayLike | None) -> None:
    size = math.isqrt(len(maze))
    on = np.ones(len(maze), bool) if solution is None else np.asarray(solution).reshape(-1) == 1
    colour = np.where(on[:, None], to_rgb(RIGHT), to_rgb(WRONG))
    squares = 1 - path[:, None] * (1 - colour)
    squares[maze == WALL] = to_rgb(GIVEN)
    axes.imshow(squares.reshape(size, size, 3), interpolation="nearest")
    for kind, letter in ((START, "S"), (GOAL, "G")):
        row, column = divmod(int(np.flatnonzero(maze == kind)[0]), size)
        axes.text(column, row, letter, ha="center", va="center", fontsize=110 / size, weight="bold", color="white")
