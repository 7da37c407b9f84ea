"""Plots of a grid of training runs: loss curves and final losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ebt.evaluation.style import COLOURS, GREY, MARKERS, picture

Losses = Mapping[str, Any]
"""A run: its ``row``, ``column`` and ``step_size``, the ``losses`` of its updates, and ``stopped`` if it diverged."""


def loss_curves(runs: Sequence[Losses], guessing: float, path: str | Path, title: str) -> None:
    """Plot the losses of all updates, a panel per row and column and a colour per step size. A cross marks a diverged run.

    Args:
        runs: The runs; see ``Losses``.
        guessing: The loss of uniform probabilities.
        path: The PNG file to write.
        title: The title of the figure.
    """
    rows, columns, sizes = (list(dict.fromkeys(run[name] for run in runs)) for name in ("row", "column", "step_size"))
    most = max((loss for run in runs for loss in run["losses"]), default=guessing)
    with picture(path, max(9.0, 4.0 * len(columns)), 1.6 + 2.9 * len(rows)) as figure:
        panels = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
        for run in runs:
            kind = sizes.index(run["step_size"])
            axes = panels[rows.index(run["row"])][columns.index(run["column"])]
            _curve(axes, run, kind, 1.0 + 1.6 * (len(sizes) - 1 - kind), guessing)
        for (row, column), axes in zip(product(rows, columns), panels.flat, strict=True):
            axes.axhline(guessing, color=GREY, linestyle="--", linewidth=1)
            axes.set_title(f"{row}, {column}")
            if most > 2 * guessing:
                _logarithmic(axes)
        for axes in panels[-1]:
            axes.set_xlabel("update")
        for axes in panels[:, 0]:
            axes.set_ylabel("loss (nats)")
        figure.suptitle(title)
        shades = [panels[0][0].plot([], [], color=COLOURS[i % len(COLOURS)])[0] for i in range(len(sizes))]
        labels = [f"step size {size:g}" for size in sizes]
        dashed = panels[0][0].plot([], [], color=GREY, linestyle="--", linewidth=1)[0]
        figure.legend([*shades, dashed], [*labels, "guessing"], loc="outside lower center", ncols=len(labels) + 1)


def _logarithmic(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _curve(axes: Axes, run: Losses, kind: int, width: float, guessing: float) -> None:
    """Draw a loss curve. Later curves are thinner, so that equal ones stay visible."""
    losses, shade = run["losses"], COLOURS[kind % len(COLOURS)]
    axes.plot(range(1, len(losses) + 1), losses, color=shade, linewidth=width, zorder=2 + kind)
    if run["stopped"] is not None:
        end = losses[-1] if losses else guessing
        axes.plot([max(1, len(losses))], [end], color=shade, marker="X", markersize=9, zorder=9)


def final_losses(
    panels: Mapping[str, Mapping[str, Mapping[float, Sequence[float | None]]]], guessing: float, path: str | Path, title: str
) -> None:
    """Plot final losses (None: diverged) of each seed against the initial step size, by panel and series."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    finals = [
        x for series in panels.values() for points in series.values() for xs in points.values() for x in xs if x is not None
    ]
    top = 1.1 * max([guessing, *finals])
    columns = min(3, len(panels))
    with picture(path, max(9.0, 4.2 * columns), 1.4 + 3.4 * -(-len(panels) // columns)) as figure:
        grid = figure.subplots(-(-len(panels) // columns), columns, squeeze=False, sharey=True)
        for axes, (panel, series) in zip(grid.flat, panels.items(), strict=False):
            for name, points in series.items():
                _finals(axes, points, names.index(name), name, top)
            axes.axhline(guessing, color=GREY, linestyle="--", linewidth=1)
            axes.set_xscale("log")
            axes.set_title(panel)
            axes.set_xlabel("initial step size")
            if top > 2.2 * guessing:
                _logarithmic(axes)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel("final loss (nats)")
        figure.suptitle(title)
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _finals(axes: Axes, points: Mapping[float, Sequence[float | None]], kind: int, name: str, top: float) -> None:
    shade, marker = COLOURS[kind % len(COLOURS)], MARKERS[kind % len(MARKERS)]
    whole = {size: [x for x in values if x is not None] for size, values in points.items() if None not in values}
    axes.plot(list(whole), [sum(values) / len(values) for values in whole.values()], color=shade, label=name)
    for size, values in points.items():
        for value in values:
            axes.plot([size], [top if value is None else value], color=shade, marker="X" if value is None else marker)
