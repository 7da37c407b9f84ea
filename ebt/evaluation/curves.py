"""Plots of quality and energy against thinking steps, from curves as JSON objects."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

from ebt.evaluation.style import COLOURS, GREY, MARKERS, picture, step_axis

LABELS = {"perplexity": "perplexity per token", "accuracy": "right tokens (%)", "cell": "empty cells right (%)"}
"""Axis labels of secondary measures."""
PERCENT = ("accuracy", "cell")


def thinking_curve(
    curves: Mapping[str, Mapping[str, Any]], path: str | Path, measure: str | None = None, title: str | None = None
) -> None:
    """Plot quality against thinking steps: a line per number of candidates, and a dashed level for a feed-forward model.

    Args:
        curves: Results of ``ebt.evaluation.measure.measure`` as JSON objects, by model name. All must be of one problem.
        path: PNG file to write.
        measure: Default: the measure of the problem. Also perplexity and accuracy for text, cell for boards.
        title: Title of the plot.
    """
    own = next(iter(curves.values()))["measure"]
    measure = measure or own["name"]
    lines = [line for name, curve in curves.items() for line in _lines(name, curve)]
    scale = 100 if own["percent"] or measure in PERCENT else 1
    with picture(path) as figure:
        axes = figure.subplots()
        for (name, points, level), colour, marker in zip(lines, cycle(COLOURS), cycle(MARKERS), strict=False):
            x, y = [point["steps"] for point in points], [scale * point[measure] for point in points]
            errors: list[Any] = [point.get(f"{measure}_error") for point in points]
            known = None not in errors
            low, high = ([v + d * e for v, e in zip(y, errors, strict=True)] if known else [] for d in (-scale, scale))
            if level:
                axes.axhline(y[0], color=colour, linestyle="--", label=name)
            else:
                axes.plot(x, y, color=colour, marker=marker, label=name)
            if known and level:
                axes.axhspan(low[0], high[0], color=colour, alpha=0.12, linewidth=0)
            elif known:
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
        steps = [point["steps"] for _, points, level in lines for point in points if not level]
        looped = any(curve["kind"] == "looped" for curve in curves.values())
        step_axis(axes, steps or [1], "thinking steps, or iterations" if looped else "thinking steps")
        axes.set_ylabel(own["label"] if measure == own["name"] else LABELS[measure])
        if title:
            axes.set_title(title)
        if len(lines) > 3:
            figure.legend(loc="outside lower center", ncols=2)
        elif len(lines) > 1:
            axes.legend()


def _lines(name: str, curve: Mapping[str, Any]) -> list[tuple[str, list[Mapping[str, Any]], bool]]:
    """Lines of a curve: name, points, and whether it is a level."""
    if curve["kind"] == "feed-forward":
        return [(name, curve["points"], True)]
    counts = sorted({point["candidates"] for point in curve["points"]})
    names = {count: f"{name}, {count} candidate{'s' if count > 1 else ''}" if counts != [1] else name for count in counts}
    return [(names[count], [point for point in curve["points"] if point["candidates"] == count], False) for count in counts]


def energy_curve(curve: Mapping[str, Any], path: str | Path, title: str | None = None) -> None:
    """Plot the mean energy and the objective of the updates against steps, for the smallest number of candidates.

    Args:
        curve: Result of ``ebt.evaluation.measure.measure`` as a JSON object, of a model with an energy.
        path: PNG file to write.
        title: Title of the plot.
    """
    fewest = min(point["candidates"] for point in curve["points"])
    points = [point for point in curve["points"] if point["candidates"] == fewest]
    steps, unit = [point["steps"] for point in points], f"per {curve['measure']['unit']}"
    with picture(path, height=6) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        above.plot([0, *steps], [curve["start_energy"], *(point["energy"] for point in points)], color=COLOURS[0], marker="o")
        above.set_ylabel(f"energy\n({unit})")
        below.plot(steps, [point["objective"] for point in points], color=COLOURS[1], marker="s")
        below.set_ylabel(f"what updates descend\n({unit})")
        step_axis(below, [0, *steps])
        if title:
            above.set_title(title)
        figure.align_ylabels()
        figure.supxlabel("step 0 is the random start; energies have no unit", fontsize=10, color=GREY)
