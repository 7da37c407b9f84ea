"""Plots of studies: bars with intervals, lines with bands, points with a fitted line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import StrMethodFormatter

from ebt.evaluation.style import COLOURS, GREY, MARKERS, picture, step_axis

Estimate = Mapping[str, Any]
"""``mean``, ``low`` and ``high``; the last two may be None."""


def grouped_bars(
    groups: Sequence[str],
    series: Mapping[str, Sequence[Estimate | None]],
    path: str | Path,
    label: str,
    title: str,
    linear_to: float | None = None,
) -> None:
    """Plot horizontal bars with intervals, a colour per series. None leaves a gap.

    With ``linear_to``, the axis is linear up to this value and logarithmic beyond, on both sides.
    """
    with picture(path, 9.0, 1.6 + 0.2 * len(groups) * (len(series) + 1)) as figure:
        axes, height = figure.subplots(), 0.8 / len(series)
        for i, (name, values) in enumerate(series.items()):
            at = [j + (i - (len(series) - 1) / 2) * height for j, value in enumerate(values) if value is not None]
            found = [value for value in values if value is not None]
            axes.barh(at, [value["mean"] for value in found], height * 0.9, color=COLOURS[i % len(COLOURS)], label=name)
            _intervals(axes, at, found)
        axes.set_yticks(range(len(groups)), groups)
        axes.invert_yaxis()
        if linear_to is not None:
            axes.set_xscale("symlog", linthresh=linear_to)
            axes.set_xticks(_doubled(linear_to, axes.get_xlim()))
            axes.xaxis.set_major_formatter("{x:g}")
        axes.axvline(0, color="black", linewidth=1)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        axes.set_title(title)
        if len(series) > 1:
            figure.legend(loc="outside lower center", ncols=min(len(series), 3))


def _doubled(linear_to: float, ends: tuple[float, float]) -> list[float]:
    """Return ticks at 0, half and the end of the linear part, and its doubles up to the ends of the axis, on both sides."""
    sizes = [linear_to / 2 * 2**i for i in range(64) if linear_to / 2 * 2**i <= max(map(abs, ends))]
    return [tick for tick in (*(-size for size in reversed(sizes)), 0.0, *sizes) if ends[0] <= tick <= ends[1]]


def _intervals(axes: Axes, at: Sequence[float], found: Sequence[Estimate]) -> None:
    known = [(y, value) for y, value in zip(at, found, strict=True) if value["low"] is not None]
    for y, value in known:
        axes.plot([value["low"], value["high"]], [y, y], color="black", linewidth=1.2)


def step_lines(panels: Mapping[str, Mapping[str, Mapping[int, Estimate]]], path: str | Path, label: str, title: str) -> None:
    """Plot lines with bands against thinking steps, with a colour per series."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    with _panels(list(panels), names, path, ("thinking steps", label), title) as grid:
        for axes, series in zip(grid, panels.values(), strict=True):
            for name, points in series.items():
                _band(axes, points, names.index(name), name)
            below = axes.get_xlabel()
            step_axis(axes, [step for points in series.values() for step in points], below)


def effort_lines(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Estimate]]]], path: str | Path, label: str, title: str
) -> None:
    """Plot percentages with bands against function evaluations (logarithmic axis), with a colour per series."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    with _panels(list(panels), names, path, ("function evaluations", label), title) as grid:
        for axes, series in zip(grid, panels.values(), strict=True):
            for name, points in series.items():
                _band(axes, dict(points), names.index(name), name)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.set_ylim(0, min(102, axes.get_ylim()[1]))


def line_panels(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    path: str | Path,
    labels: tuple[str, str],
    title: str,
    level: float | None = None,
) -> None:
    """Plot x and y of each series in each panel. ``level`` adds a dashed horizontal line."""
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    with _panels(list(panels), names, path, labels, title) as grid:
        for axes, series in zip(grid, panels.values(), strict=True):
            for name, (x, y) in series.items():
                axes.plot(x, y, color=COLOURS[names.index(name) % len(COLOURS)], label=name)
            if level is not None:
                axes.axhline(level, color=GREY, linestyle="--", linewidth=1)


def histograms(
    panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]],
    path: str | Path,
    labels: tuple[str, str],
    title: str,
) -> None:
    """Plot histograms, given by panel as the bin edges and the heights of each series."""
    names = list(dict.fromkeys(name for _, series in panels.values() for name in series))
    with _panels(list(panels), names, path, labels, title) as grid:
        for axes, (edges, series) in zip(grid, panels.values(), strict=True):
            for name, heights in series.items():
                axes.stairs(heights, edges, color=COLOURS[names.index(name) % len(COLOURS)], label=name, linewidth=2)


@contextmanager
def _panels(
    panels: Sequence[str], names: Sequence[str], path: str | Path, labels: tuple[str, str], title: str
) -> Iterator[list[Axes]]:
    """Yield a grid of titled panels, three in a row, with a common legend of the drawn series below."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with picture(path, max(9.0, 4.2 * columns), 1.2 + 3.4 * rows + 0.25 * (-(-len(names) // 3))) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        shown: list[Axes] = list(grid.flat)[: len(panels)]
        for axes, panel in zip(shown, panels, strict=True):
            axes.set_title(panel)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in shown[-columns:]:
            axes.set_xlabel(labels[0])
        for row in grid:
            row[0].set_ylabel(labels[1])
        figure.suptitle(title)
        yield shown
        found = {name: line for axes in shown for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
        if len(found) > 1:
            kept = [name for name in names if name in found]
            figure.legend([found[name] for name in kept], kept, loc="outside lower center", ncols=min(3, len(kept)))


def _band(axes: Axes, points: Mapping[Any, Estimate], colour: int, label: str) -> None:
    shade, marker = COLOURS[colour % len(COLOURS)], MARKERS[colour % len(MARKERS)]
    steps, values = list(points), list(points.values())
    axes.plot(steps, [value["mean"] for value in values], color=shade, marker=marker, label=label)
    if all(value["low"] is not None for value in values):
        axes.fill_between(
            steps, [value["low"] for value in values], [value["high"] for value in values], color=shade, alpha=0.15, linewidth=0
        )


def fitted_points(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    fits: Mapping[str, Estimate],
    path: str | Path,
    labels: tuple[str, str],
    title: str,
) -> None:
    """Plot the points of several sets, with a least-squares line per panel.

    Args:
        panels: x and y of the points, by model and set.
        fits: The slope of each panel with its interval.
        path: The PNG file to write.
        labels: The labels of the axes.
        title: The title of the figure.
    """
    names = list(dict.fromkeys(name for series in panels.values() for name in series))
    with picture(path, 4.4 * len(panels), 5.2 + 0.25 * (-(-len(names) // 3))) as figure:
        grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
        for axes, (panel, series) in zip(grid, panels.items(), strict=True):
            for name, (x, y) in series.items():
                i = names.index(name)
                shade, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
                axes.scatter(x, y, color=shade, marker=marker, label=name, zorder=3)
            _fit(axes, series, fits[panel])
            axes.axhline(0, color=GREY, linewidth=1)
            axes.set_title(f"{panel}\n{_slope(fits[panel])}")
            axes.set_xlabel(labels[0])
        grid[0].set_ylabel(labels[1])
        figure.suptitle(title)
        handles, shown = grid[0].get_legend_handles_labels()
        figure.legend(handles, shown, loc="outside lower center", ncols=3)


def _fit(axes: Axes, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], fit: Estimate) -> None:
    x, y = (np.concatenate([np.asarray(points[i], float) for points in series.values()]) for i in (0, 1))
    if fit["mean"] is not None:
        ends = np.array([x.min(), x.max()])
        axes.plot(ends, y.mean() + fit["mean"] * (ends - x.mean()), color=GREY, linestyle="--")


def _slope(fit: Estimate) -> str:
    if fit["mean"] is None:
        return "no slope"
    interval = "" if fit["low"] is None else f" [{fit['low']:.2f}, {fit['high']:.2f}]"
    return f"slope {fit['mean']:.2f}{interval}"
