"""Scaling plots: losses against an axis with fitted laws, and losses along training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from ebt.evaluation.style import COLOURS, MARKERS, picture

Curve = Callable[[Any], Any]


@dataclass(frozen=True)
class Line:
    """A kind of model: ``x`` (P,), ``losses`` (P, S) with NaN for missing ones, its laws and its legend entry."""

    x: Sequence[float]
    losses: Sequence[Sequence[float]]
    law: Curve | None = None
    with_floor: Curve | None = None
    label: str = ""


@dataclass(frozen=True)
class Panel:
    """The panel of an axis."""

    title: str
    label: str
    lines: Mapping[str, Line]


def scaling_lines(panels: Sequence[Panel], path: str | Path, label: str, title: str) -> None:
    """Plot losses on logarithmic axes, a panel per axis: seeds as points, means as larger points, laws as lines."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with picture(path, max(8.0, 5.0 * columns), 0.8 + 5.2 * rows) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            for i, (name, line) in enumerate(panel.lines.items()):
                _draw(axes, name, line, i)
            _axes(axes, [x for line in panel.lines.values() for x in line.x])
            axes.set(title=panel.title, xlabel=panel.label)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13))
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for row in grid:
            row[0].set_ylabel(label)
        figure.suptitle(title)


def _draw(axes: Axes, name: str, line: Line, kind: int) -> None:
    shade, marker = COLOURS[kind % len(COLOURS)], MARKERS[kind % len(MARKERS)]
    x, losses = np.asarray(line.x), np.asarray(line.losses, float)
    for seed in losses.T:
        axes.plot(x, seed, color=shade, marker=marker, markersize=4, alpha=0.4, linestyle="none")
    known = np.isfinite(losses).any(1)
    means = [np.nanmean(row) for row in losses[known]]
    text = f"{name}: {line.label}" if line.label else name
    axes.plot(x[known], means, color=shade, marker=marker, markersize=7, linestyle="none" if line.law else "-", label=text)
    fine = np.geomspace(x.min(), x.max(), 100)
    for law, style in ((line.law, "-"), (line.with_floor, ":")):
        if law is not None:
            axes.plot(fine, law(fine), color=shade, linestyle=style, linewidth=1.6)


def _axes(axes: Axes, at: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    points = sorted(set(at))
    if len(points) <= 8:
        axes.xaxis.set_major_locator(LogLocator() if max(points) >= 1e7 else NullLocator())
        if max(points) < 1e7:
            axes.set_xticks(points)
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def short(value: float) -> str:
    """Format a number with few characters, for example 2.05M or 51k."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"


def training_curves(
    kinds: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], path: str | Path, labels: tuple[str, str], title: str
) -> None:
    """Plot losses against operations along training, a panel per kind and a line per size."""
    with picture(path, max(8.0, 5.0 * len(kinds)), 5.4) as figure:
        grid = figure.subplots(1, len(kinds), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (kind, sizes) in zip(grid, kinds.items(), strict=True):
            for i, (size, curve) in enumerate(sizes.items()):
                x, y = zip(*curve, strict=True) if curve else ((), ())
                axes.plot(x, y, color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], markersize=4, label=size)
            _axes(axes, [1.0, *[x for curve in sizes.values() for x, _ in curve]])
            axes.xaxis.set_major_locator(LogLocator())
            axes.set(title=kind, xlabel=labels[0])
        grid[0].set_ylabel(labels[1])
        figure.suptitle(title)
        handles, shown = grid[0].get_legend_handles_labels()
        figure.legend(handles, shown, loc="outside lower center", ncols=min(5, len(shown)))
