"""Lines: quality against thinking steps, energy against thinking steps. Curves are what ``ebt.evaluation`` writes as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ebt.evaluation.style import COLOURS, GREY, MARKERS, picture, step_axis

LABELS = {"perplexity": "perplexity per token", "accuracy": "right tokens (%)", "cell": "empty cells right (%)"}
"""Of measures that a problem has beside its own."""
PERCENT = ("accuracy", "cell")


def thinking_curve(
    curves: Mapping[str, Mapping[str, Any]], path: str | Path, measure: str | None = None, title: str | None = None
) -> None:
    """Quality against thinking steps: a line for each number of candidates, a dashed level for a feed-forward model.

    Args:
        curves: results of ``ebt.evaluation.measure.measure`` as JSON objects, by the name of the model; all of one problem.
        path: the PNG to write.
        measure: the problem's own by default; of text also perplexity or accuracy, of boards cell.
        title: above the picture.
    """
    own = next(iter(curves.values()))["measure"]
    measure = measure or own["name"]
    label = own["label"] if measure == own["name"] else LABELS[measure]
    with picture(path) as figure:
        axes = figure.subplots()
        steps: list[int] = []
        colour = 0
        for name, curve in curves.items():
            if curve["kind"] == "feed-forward":
                _level(axes, name, curve, measure, colour, own["percent"])
                colour += 1
                continue
            for candidates in sorted({point["candidates"] for point in curve["points"]}):
                points = [point for point in curve["points"] if point["candidates"] == candidates]
                steps += [point["steps"] for point in points]
                _line(axes, _name(name, curve, candidates), points, measure, colour, own["percent"])
                colour += 1
        kinds = {curve["kind"] for curve in curves.values()}
        step_axis(axes, steps or [1], "thinking steps, or iterations" if "looped" in kinds else "thinking steps")
        axes.set_ylabel(label)
        if title:
            axes.set_title(title)
        _legend(axes)


def _name(name: str, curve: Mapping[str, Any], candidates: int) -> str:
    several = len({point["candidates"] for point in curve["points"]}) > 1 or candidates > 1
    return f"{name}, {candidates} candidate{'s' if candidates > 1 else ''}" if several else name


def _values(points: list[Mapping[str, Any]], measure: str, percent: bool) -> tuple[list[float], list[float] | None]:
    scale = 100 if percent or measure in PERCENT else 1
    errors = [point.get(f"{measure}_error") for point in points]
    return [scale * point[measure] for point in points], None if None in errors else [
        scale * float(e) for e in errors if e is not None
    ]


def _line(axes: Axes, label: str, points: list[Mapping[str, Any]], measure: str, colour: int, percent: bool) -> None:
    shade, marker = COLOURS[colour % len(COLOURS)], MARKERS[colour % len(MARKERS)]
    x = [point["steps"] for point in points]
    y, errors = _values(points, measure, percent)
    axes.plot(x, y, color=shade, marker=marker, label=label)
    if errors:
        low, high = ([v + sign * e for v, e in zip(y, errors, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=shade, alpha=0.15, linewidth=0)


def _level(axes: Axes, label: str, curve: Mapping[str, Any], measure: str, colour: int, percent: bool) -> None:
    (value,), errors = _values(curve["points"], measure, percent)
    shade = COLOURS[colour % len(COLOURS)]
    axes.axhline(value, color=shade, linestyle="--", label=label)
    if errors:
        axes.axhspan(value - errors[0], value + errors[0], color=shade, alpha=0.12, linewidth=0)


def _legend(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend()


def energy_curve(curve: Mapping[str, Any], path: str | Path, title: str | None = None) -> None:
    """Mean energy, and what the updates descend, after each number of steps with the fewest candidates measured.

    Args:
        curve: a result of ``ebt.evaluation.measure.measure`` as a JSON object, of a model with an energy.
        path: the PNG to write.
        title: above the picture.
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
