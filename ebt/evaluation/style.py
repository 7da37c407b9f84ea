"""Style of all plots: readable at 800 pixels, with the colour-blind safe palette of Okabe and Ito."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ebt.files import write_whole

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
RIGHT, WRONG, GIVEN, GREY = "#0072B2", "#D55E00", "#000000", "#666666"
HEAT = "viridis"
DPI = 100
PALETTE = 256
"""Colours of the file of a plot."""

_STYLE = {
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "legend.fontsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "legend.frameon": False,
}


@contextmanager
def picture(path: str | Path, width: float = 8.0, height: float = 5.0, colours: int | None = PALETTE) -> Iterator[Figure]:
    """Create a figure of ``100 width`` x ``100 height`` pixels, and save it as PNG on exit. Changes no global state.

    Args:
        path: The PNG file to write.
        width: In inches of 100 pixels.
        height: In inches of 100 pixels.
        colours: Size of the palette of the file, at most 256. None keeps all colours, as photographs need.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        yield figure
        canvas.draw()
        with write_whole(path) as file:
            small(Image.fromarray(np.asarray(canvas.buffer_rgba())), colours).save(file, format="png", optimize=True)


def small(image: Image.Image, colours: int | None = PALETTE) -> Image.Image:
    """Return an image without transparency, reduced to a palette, which makes plots three times smaller as files.

    The palette covers all colours of the image, since the thin line of a series matters as much as the background.
    """
    opaque = image.convert("RGB")
    return opaque if colours is None else opaque.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)


def step_axis(axes: Axes, steps: list[int], label: str = "thinking steps") -> None:
    """Set up an axis of whole steps: logarithmic if they span more than a factor of 8, else linear. It has at most eleven ticks
    without overlap, including the last step."""
    steps = sorted(set(steps))
    curved = steps[-1] > (8 * steps[0] or 16)
    if curved and steps[0]:
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
    elif curved:
        axes.set_xscale("symlog", base=2, linthresh=1)
    places = {step: 1 + math.log2(step) if curved and step > 1 else step for step in steps}
    ticks, gap = [steps[-1]], (places[steps[-1]] - places[steps[0]]) / 10
    for step in reversed(steps[:-1]):
        if places[ticks[0]] - places[step] >= gap:
            ticks.insert(0, step)
    axes.set_xticks(ticks, [str(step) for step in ticks])
    axes.set_xlabel(label)
