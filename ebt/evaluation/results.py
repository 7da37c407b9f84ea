"""Results of evaluations, as dataclasses that can be written as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Progress = Callable[[int, int | None], None]
"""Called after each batch with the number of rows done and the total number of rows (None if unknown)."""

Kind = Literal["ebt", "feed-forward", "looped"]


@dataclass(frozen=True)
class Point:
    """Quality for one number of steps (iterations of a looped model) and candidates."""

    steps: int
    candidates: int
    energy: float | None
    """Mean energy of the winners per unit. None for models without an energy."""
    objective: float | None
    """Mean of the function that the updates descend (``Update.objective``), per unit."""
    forward: float
    """Forward passes of the network per answer, summed over candidates."""
    backward: float
    """Inner backward passes per answer, summed over candidates."""


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Measure:
    """The quality measure of a problem."""

    name: str
    """Field of a ``Point``."""
    label: str
    """Axis label."""
    unit: str
    """Unit of energies and evaluations: token, board, image or frame."""
    higher: bool = False
    """Whether higher is better."""
    percent: bool = False
    """Whether values are shown as percentages."""

    def cost(self, point: Point) -> float:
        """The value of a point, negated if higher is better."""
        value: float = getattr(point, self.name)
        return -value if self.higher else value


@dataclass(frozen=True)
class Curve(Generic[P]):
    """Quality against thinking steps, for one model on one data set."""

    task: str
    """Name of the problem."""
    measure: Measure
    kind: Kind
    points: list[P]
    rows: int
    """Number of rows: contexts, boards, images or clips."""
    scored: int
    """Number of predictions that count: tokens, empty cells, images or frames."""
    rule: str | None = None
    """How the winner was chosen. None for models without an energy."""
    tolerance: float | None = None
    seed: int = 0
    start_energy: float | None = None
    """Mean energy of the random starts."""
    alarms: tuple[str, ...] = ()
    """Alarms for the first batch (``ebt.evaluation.alarms``)."""

    def best(self) -> P:
        """The point of best quality. Ties go to the one with the fewest evaluations."""
        return min(self.points, key=lambda point: (self.measure.cost(point), point.forward + point.backward))

    def at(self, steps: int, candidates: int = 1) -> P:
        """The point for one number of steps and candidates.

        Raises:
            KeyError: If it was not measured.
        """
        found = [point for point in self.points if (point.steps, point.candidates) == (steps, candidates)]
        if not found:
            raise KeyError(f"{steps} steps with {candidates} candidates were not measured: choose one of points")
        return found[0]
