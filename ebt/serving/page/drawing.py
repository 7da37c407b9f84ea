"""HTML and SVG of boards, curves, tokens and landscapes. Colours of text and lines follow the theme, dark or light."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image

from ebt.evaluation.slices import Slice
from ebt.problems.language.pictures import visible
from ebt.problems.sudoku.configuration import BOXES

Values = Sequence[Any] | npt.NDArray[Any]

COOL, WARM = (214, 232, 247), (250, 190, 140)
"""Backgrounds for the lowest and the highest energy. Black text is readable on both and between them."""
HEAT = colormaps["viridis"]
WIDTH, HEIGHT = 440, 170
LEVELS = 9
"""Contour lines of a landscape."""


def shade(value: float, low: float, high: float) -> str:
    """The background for an energy between ``low`` and ``high``, as a CSS colour."""
    share = min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(COOL, WARM, strict=True))


def legend(low: float, high: float, what: str, colours: Sequence[str] = ()) -> str:
    """A bar that explains colours, those of ``shade`` by default."""
    bar = ",".join(colours or (shade(0, 0, 1), shade(1, 0, 1)))
    return (
        f'<p class="ebt-legend">{escape(what)}: <span>{low:.3g}</span>'
        f'<i aria-hidden="true" style="background:linear-gradient(90deg,{bar})"></i><span>{high:.3g}</span></p>'
    )


def board(
    digits: Values,
    given: Values,
    caption: str,
    confidence: Values | None = None,
    energies: Values | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    wrong: Values | None = None,
    small: bool = False,
) -> str:
    """A board as a table.

    Args:
        digits: (C,), 0 where empty.
        given: (C,) whether a digit was given.
        caption: Text below the board, which also names the table for screen readers.
        confidence: (C,) probability of each digit. The less likely, the smaller it is drawn.
        energies: (C,) energy of each cell, its background.
        span: Lowest and highest energy of the colours.
        wrong: (C,) cells that repeat a digit of their row, column or box.
        small: Whether to draw it as a thumbnail.
    """
    size = math.isqrt(len(digits))
    high, wide = BOXES[size]
    rows = []
    for row in range(size):
        cells = []
        for column in range(size):
            i = row * size + column
            marks = {
                "given": given[i],
                "bad": wrong is not None and wrong[i],
                "right": column % wide == wide - 1 and column < size - 1,
                "below": row % high == high - 1 and row < size - 1,
            }
            classes = [name for name, on in marks.items() if on]
            style, told = "", f"row {row + 1}, column {column + 1}"
            if energies is not None and not given[i]:
                style += f"background:{shade(energies[i], *span)};"
                told += f", energy {energies[i]:.3g}"
            inside = str(digits[i] or "")
            if confidence is not None and not given[i]:
                told += f", probability {confidence[i]:.2f}"
                inside = f'<span style="font-size:{0.55 + 0.45 * confidence[i]:.2f}em">{inside}</span>'
            cells.append(f'<td class="{" ".join(classes)}" style="{style}" title="{told}">{inside}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    kind = f"ebt-board of-{size}{' small' if small else ''}"
    return f'<table class="{kind}"><caption>{caption}</caption><tbody>{"".join(rows)}</tbody></table>'


def curve(lines: Sequence[Sequence[float]], chosen: int, at: int, label: str) -> str:
    """Energy curves of candidates over steps, with a marker on the chosen one at step ``at``."""
    values = np.array([value for line in lines for value in line])
    low, high = float(values.min()), float(values.max())
    last = max(1, max(len(line) for line in lines) - 1)
    left, top, right, bottom = 52, 12, WIDTH - 12, HEIGHT - 30

    def place(step: int, value: float) -> tuple[float, float]:
        return left + (right - left) * step / last, bottom - (bottom - top) * (value - low) / ((high - low) or 1.0)

    drawn = []
    for index in [*(i for i in range(len(lines)) if i != chosen), chosen]:
        points = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in enumerate(lines[index]))
        drawn.append(f'<polyline class="{"chosen" if index == chosen else "other"}" points="{points}"/>')
    line = lines[chosen]
    x, y = place(at, line[at])
    told = f"{label}: {line[0]:.4g} at the start, {line[at]:.4g} at step {at}, {line[-1]:.4g} at the end"
    return (
        f'<svg class="ebt-plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}">'
        f'<path class="axis" d="M{left},{top}V{bottom}H{right}"/>{"".join(drawn)}<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        f'<text x="{left - 6}" y="{top + 8}" class="end">{high:.3g}</text>'
        f'<text x="{left - 6}" y="{bottom}" class="end">{low:.3g}</text>'
        f'<text x="{left}" y="{HEIGHT - 14}">0</text><text x="{right}" y="{HEIGHT - 14}" class="end">{last}</text>'
        f'<text x="{(left + right) / 2}" y="{HEIGHT - 4}" class="middle">thinking step</text></svg>'
    )


def landscape(shown: Slice, at: int, objective: bool) -> str:
    """A map of a slice with its contour lines and the paths of the candidates up to step ``at``."""
    side, grid = 400, (shown.objective if objective else shown.energies).numpy()
    low, high = float(grid.min()), float(np.quantile(grid, 0.85))
    picture = heat(grid[::-1], low, high).resize((side, side), Image.Resampling.BICUBIC)
    across, up = shown.horizontal.numpy(), shown.vertical.numpy()

    def place(points: npt.NDArray[np.floating]) -> str:
        x = (points[:, 0] - across[0]) / (across[-1] - across[0]) * side
        y = side - (points[:, 1] - up[0]) / (up[-1] - up[0]) * side
        return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))

    contours = contour_generator(across, up, grid)
    levels = np.quantile(grid, np.linspace(0.05, 0.95, LEVELS))
    drawn = [f'<polyline class="level" points="{place(line)}"/>' for level in levels for line in contours.lines(level)]
    paths = shown.paths.numpy()
    for index in [*(i for i in range(paths.shape[1]) if i != shown.winner), shown.winner]:
        path, kind = place(paths[: at + 1, index]), "chosen" if index == shown.winner else "other"
        start, now = path.split()[0].split(","), path.split()[-1].split(",")
        drawn.append(f'<polyline class="path {kind}" points="{path}"/>')
        drawn.append(f'<circle class="start" cx="{start[0]}" cy="{start[1]}" r="4"/>')
        drawn.append(f'<circle class="now {kind}" cx="{now[0]}" cy="{now[1]}" r="{6 if kind == "chosen" else 4}"/>')
    what = "objective" if objective else "energy"
    told = f"Map of the {what} with the paths of {paths.shape[1]} candidates after {at} steps"
    return (
        f'<svg class="ebt-map" viewBox="0 0 {side} {side}" role="img" aria-label="{told}">'
        f'<image href="{data_uri(picture)}" width="{side}" height="{side}"/>{"".join(drawn)}</svg>'
        + legend(low, high, what, [to_hex(HEAT(share)) for share in np.linspace(0, 1, 5)])
    )


def heat(grid: npt.NDArray[np.floating], low: float, high: float) -> Image.Image:
    """A picture of values between ``low`` and ``high``."""
    colours = HEAT(np.clip((grid - low) / ((high - low) or 1.0), 0, 1))[..., :3]
    return Image.fromarray((colours * 255).astype(np.uint8))


def picture(image: Image.Image, caption: str, name: str | None = None) -> str:
    """A picture with a caption, and a link that saves it under a name."""
    uri = data_uri(image)
    link = "" if name is None else f' <a href="{uri}" download="{name}">Save</a>'
    shown = f'<img src="{uri}" alt="{escape(caption)}" width="{image.width}" height="{image.height}">'
    return f'<figure class="ebt-picture">{shown}<figcaption>{escape(caption)}{link}</figcaption></figure>'


def tokens(prompt: str, words: Sequence[str], energies: Sequence[float]) -> str:
    """A text whose tokens are buttons, coloured by energy."""
    low, high = (min(energies), max(energies)) if energies else (0.0, 1.0)
    shown = [f'<span class="prompt">{escape(prompt)}</span>']
    for i, (word, energy) in enumerate(zip(words, energies, strict=True)):
        name = escape(f"token {i + 1}: {visible(word)}, energy {energy:.3g}", quote=True)
        shown.append(
            f'<button type="button" data-token="{i}" tabindex="{-1 if i else 0}" title="{name}" aria-label="{name}"'
            f' style="background:{shade(energy, low, high)}">{escape(visible(word))}</button>{"<br>" * word.count(chr(10))}'
        )
    bar = legend(low, high, "energy") if energies else ""
    return f'<div class="ebt-tokens" role="group" aria-label="Text with the energy of each token">{"".join(shown)}</div>{bar}'


def words_by_step(rows: Sequence[tuple[float, Sequence[tuple[str, float]]]], caption: str) -> str:
    """A table of the most probable words at each step: rows of energy and words with their probabilities."""
    body = []
    for step, (energy, words) in enumerate(rows):
        cells = "".join(
            f'<span class="word" style="--p:{100 * p:.0f}%"><b>{escape(visible(word))}</b> {p:.2f}</span>' for word, p in words
        )
        body.append(f'<tr><th scope="row">{step or "start"}</th><td>{energy:.3g}</td><td>{cells}</td></tr>')
    head = '<tr><th scope="col">step</th><th scope="col">energy</th><th scope="col">most probable next tokens</th></tr>'
    table = f"<caption>{escape(caption)}</caption><thead>{head}</thead><tbody>{''.join(body)}</tbody>"
    return f'<table class="ebt-words">{table}</table>'


def data_uri(image: Image.Image) -> str:
    """A picture as an address that holds it."""
    file = io.BytesIO()
    image.save(file, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
