"""Grids: the points of an axis, their common settings, and checks for contradictions."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ebt.errors import InputError

VARIED = {
    "data": ("size",),
    "batch": ("batch_size",),
    "depth": ("layers",),
    "width": ("dim",),
    "parameters": ("layers", "dim"),
    "flops": ("layers", "dim"),
}
"""Fields that vary along an axis. A value of the axis has one number for each."""
FEWEST = 3
"""Minimum number of points, because any two points lie on a line."""
WARMUP = 50
"""Maximum number of warm-up updates."""


@dataclass(frozen=True)
class Point:
    """The settings of a training run, apart from the kind of model, the data and the seed."""

    layers: int = 3
    dim: int = 64
    head_dim: int = 16
    """Width of a head. There are ``dim / head_dim`` heads."""
    batch_size: int = 16
    size: int | None = None
    """Number of training items (tokens, frames), drawn by the seed; None for all."""
    passes: int = 1
    """Number of passes over the data, on the axis data. It determines the number of updates."""
    updates: int = 800
    evaluations: int = 4
    """Number of evaluations along training. The best one counts (early stopping)."""
    lr: float = 4e-3
    """Learning rate at a width of 64."""
    lr_exponent: float = 0.5
    """The learning rate falls as ``dim ** -lr_exponent``."""
    decay: bool = True
    """Whether the learning rate decays with a cosine. Without decay, every update can serve as the end of training."""
    held_out: int = 256
    """Number of held-out rows: half to choose the update and the number of steps, half to measure the loss."""

    @property
    def rate(self) -> float:
        """The learning rate at this width."""
        return float(self.lr * (64 / self.dim) ** self.lr_exponent)

    @property
    def warmup(self) -> int:
        """Number of warm-up updates."""
        return min(WARMUP, self.updates // 16)

    @property
    def moments(self) -> list[int]:
        """Updates to measure the loss after: in the last third with decay, log-spaced from an eighth to the end without."""
        count = self.evaluations
        shares = [1 - i / (3 * count) if self.decay else 8 ** (-i / max(1, count - 1)) for i in range(count)]
        return sorted({max(1, round(self.updates * share)) for share in shares})

    @property
    def cost(self) -> float:
        """Approximate relative cost of the training run."""
        return float(self.updates * self.batch_size * self.layers * (12 * self.dim**2 + 4000 * self.dim))


@dataclass(frozen=True)
class Grid:
    """The points of an axis."""

    axis: str
    values: tuple[tuple[int, ...], ...]
    """For each point, a number for each varying field."""
    base: Point = field(default_factory=Point)
    """Common settings of the points."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the data."""
    origin: str = ""
    """Source of the grid, named in errors."""
    per_row: int = 0
    """Items per row, once the data are known. On the axis data, it determines the number of updates."""

    @property
    def points(self) -> list[Point]:
        names: Any = VARIED[self.axis]
        points = [replace(self.base, **dict(zip(names, value, strict=True))) for value in self.values]
        return [self._seen(point) for point in points] if self.axis == "data" and self.per_row else points

    def _seen(self, point: Point) -> Point:
        rows = (point.size or 0) // self.per_row
        return replace(point, updates=max(1, point.passes * rows // point.batch_size))

    def label(self, index: int) -> str:
        """Return the label of a point."""
        return " x ".join(f"{number:,}" for number in self.values[index])


def read_grid(path: str) -> dict[str, Any]:
    """Read the fields of a grid from a YAML file.

    Raises:
        InputError: The file cannot be read or has no fields.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--grid {path} cannot be read ({error}): give an existing YAML file.") from error
    except yaml.YAMLError as error:
        raise InputError(f"--grid {path} is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(found, dict):
        raise InputError(f"--grid {path} has no fields: write lines such as `values: [16, 32, 64]`.")
    return found


def make_grid(axis: str, given: Mapping[str, Any], default: Grid, origin: str) -> Grid:
    """Create a grid from the fields that differ from the default. Errors name the ``origin`` of the fields.

    Raises:
        InputError: A field is unknown, has the wrong type, or contradicts another field or the axis.
    """
    point, known = {one.name: one for one in fields(Point)}, ("axis", "values", "data")
    for name in given:
        if name not in point and name not in known:
            close = difflib.get_close_matches(str(name), [*point, *known], 1)
            hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join((*known, *point))}."
            raise InputError(f"{origin}: there is no field {name!r}: {hint}")
    if given.get("axis", axis) != axis:
        raise InputError(f"{origin}: axis is {given['axis']!r}, but --axis is {axis}: make them equal, or leave axis out.")
    if doubled := [name for name in VARIED[axis] if name in given]:
        raise InputError(f"{origin}: {', '.join(doubled)} is given, but varies along the axis {axis}: leave it out.")
    if axis == "data" and "updates" in given:
        raise InputError(f"{origin}: updates is given, but follows from the data on the axis data: give passes instead.")
    if axis != "data" and "passes" in given:
        raise InputError(f"{origin}: passes is given, but applies only to the axis data: give updates instead.")
    if axis == "flops" and given.get("decay"):
        raise InputError(f"{origin}: decay is true, but the axis flops uses losses along training: leave it out.")
    base = replace(default.base, **{name: _checked(name, given[name], origin) for name in point if name in given})
    values = _values(axis, given["values"], origin) if "values" in given else default.values
    data = _data(given.get("data") or {}, default.data, origin)
    grid = Grid(axis, values, base, data, origin)
    for one in grid.points or [base]:
        _consistent(one, origin)
    return grid


def _checked(name: str, value: Any, origin: str) -> Any:
    if name == "decay":
        if not isinstance(value, bool):
            raise InputError(f"{origin}: decay is {value!r}: write true or false.")
        return value
    if name in ("lr", "lr_exponent"):
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 <= value < 1e9
            or (name == "lr" and not value)
        ):
            raise InputError(f"{origin}: {name} is {value!r}: give a positive number, for example 0.004 or 4.0e-3.")
        return float(value)
    if name == "size" and value is None:
        return None
    return _whole(name, value, origin)


def _whole(name: str, value: Any, origin: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{origin}: {name} is {value!r}: give an integer of at least 1.")
    return value


def _values(axis: str, given: Any, origin: str) -> tuple[tuple[int, ...], ...]:
    names = VARIED[axis]
    form = "numbers" if len(names) == 1 else f"pairs [{', '.join(names)}]"
    if not isinstance(given, list) or len(given) < FEWEST:
        what = "empty" if not given else f"{given!r}"
        raise InputError(f"{origin}: values is {what}: the axis {axis} needs a list of at least {FEWEST} {form}.")
    values = []
    for one in given:
        numbers: Sequence[Any] = one if isinstance(one, list) else [one]
        if len(numbers) != len(names):
            raise InputError(f"{origin}: values contains {one!r}: the axis {axis} needs {form}.")
        values.append(tuple(_whole(name, number, origin) for name, number in zip(names, numbers, strict=True)))
    for one in values:
        if values.count(one) > 1:
            raise InputError(f"{origin}: values contains {', '.join(map(str, one))} twice: give each point once.")
    return tuple(sorted(values))


def _data(given: Any, default: Mapping[str, Any], origin: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise InputError(f"{origin}: data is {given!r}: write the settings of the data below it, each as `name: value`.")
    for name, value in given.items():
        if name not in default:
            raise InputError(f"{origin}: there is no data.{name}: the settings are {', '.join(default)}.")
        if isinstance(default[name], int):
            _whole(f"data.{name}", value, origin)
        elif not isinstance(value, type(default[name])):
            raise InputError(f"{origin}: data.{name} is {value!r}: give a value such as {default[name]!r}.")
    return {**default, **given}


def _consistent(point: Point, origin: str) -> None:
    if point.head_dim % 2:
        raise InputError(f"{origin}: head_dim is {point.head_dim}: give an even number, because rotary embeddings need pairs.")
    if point.dim % point.head_dim:
        raise InputError(f"{origin}: dim {point.dim} is not a multiple of head_dim {point.head_dim}: change one of them.")
    if point.held_out < 2:
        raise InputError(f"{origin}: held_out is {point.held_out}: give at least 2, a row for choosing and one for measuring.")
    if point.evaluations > point.updates:
        raise InputError(f"{origin}: evaluations is {point.evaluations}, more than updates {point.updates}: lower it.")


def check_filled(grid: Grid, examples: int, held_out: int, per_example: int, items: str) -> Grid:
    """Complete a grid with the size of the data, and on the axis data with points spread over it.

    Raises:
        InputError: There are not enough data for a point.
    """
    origin, most = grid.origin, examples * per_example
    if not grid.values:  # the default of the axis data
        shares = [2.0**-i for i in reversed(range(5))]
        grid = replace(grid, values=tuple((max(1, int(share * examples)) * per_example,) for share in shares))
        if len(set(grid.values)) < len(grid.values):
            raise InputError(f"{origin}: {most:,} {items} are too few for an axis of data: give more, or your own grid.")
    if len({(point.size or most) // per_example for point in grid.points}) < len(grid.points) and grid.axis == "data":
        raise InputError(f"{origin}: values give the same number of rows of {per_example} {items}: set them further apart.")
    base = replace(grid.base, size=grid.base.size or most)
    grid = replace(grid, base=base, per_row=per_example)
    for point in grid.points:
        size = point.size or most
        if size > most:
            raise InputError(f"{origin}: size {size:,} is more than the {most:,} {items} of the training data: lower it.")
        if size // per_example < point.batch_size:
            raise InputError(
                f"{origin}: batch_size {point.batch_size} cannot be filled: {size:,} {items} are {size // per_example} rows. "
                "Lower batch_size, or give more data."
            )
        if point.held_out > held_out:
            raise InputError(
                f"{origin}: held_out is {point.held_out}, but there are {held_out} rows: lower it, or give more data."
            )
    for point in grid.points:
        _consistent(point, origin)
    return grid


def settings_of(point: Point) -> dict[str, Any]:
    """Return a point and its derived settings as JSON."""
    return {**asdict(point), "rate": point.rate, "moments": point.moments}
