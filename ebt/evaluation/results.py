"""What evaluations return: plain dataclasses that go to JSON and back to pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from ebt import files

Progress = Callable[[int, int | None], None]
"""Called after each batch with the number of rows done, and of all rows where that is known."""

Kind = Literal["ebt", "feed-forward", "looped"]


@dataclass(frozen=True)
class Point:
    """Quality after a number of steps (iterations of a looped model) with a number of candidates."""

    steps: int
    candidates: int
    energy: float | None
    """Mean energy of the winners, per token or per board; None for models without an energy."""
    objective: float | None
    """Mean of the function that the updates descend (``Update.objective``), per token or per board."""
    forward: float
    """Forward passes of the network that the answer took, all candidates together."""
    backward: float
    """Inner backward passes, likewise."""


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Measure:
    """The quality that a problem is judged by."""

    name: str
    """The field of a point."""
    label: str
    """For axes of pictures."""
    unit: str
    """What energies and evaluations are told per: token, board, image, frame."""
    higher: bool = False
    """Whether more is better."""
    percent: bool = False
    """Whether it is shown in per cent."""

    def cost(self, point: Point) -> float:
        """Lower is better."""
        value: float = getattr(point, self.name)
        return -value if self.higher else value


@dataclass(frozen=True)
class Curve(Generic[P]):
    """Quality against thinking steps, for one model on one set."""

    task: str
    """The problem's name."""
    measure: Measure
    kind: Kind
    points: list[P]
    rows: int
    """Rows of text, boards, images, or clips."""
    scored: int
    """Tokens, empty cells, images, or frames."""
    rule: str | None = None
    """How the winner was chosen; None for models without an energy."""
    tolerance: float | None = None
    seed: int = 0
    start_energy: float | None = None
    """Mean energy of the random starts."""
    alarms: tuple[str, ...] = ()
    """What looks broken in the thinking (``ebt.thinking.alarms``), judged on the first batch."""

    def best(self) -> P:
        """The point of the best quality; among equals, the one with the fewest evaluations."""
        return min(self.points, key=lambda point: (self.measure.cost(point), point.forward + point.backward))

    def at(self, steps: int, candidates: int = 1) -> P:
        """The point of a number of steps and candidates.

        Raises:
            KeyError: it was not measured.
        """
        found = [point for point in self.points if (point.steps, point.candidates) == (steps, candidates)]
        if not found:
            raise KeyError(f"{steps} steps with {candidates} candidates were not measured")
        return found[0]


def to_json(result: Any) -> dict[str, Any]:
    """A result as a JSON object; numbers that are not finite become null."""
    return dict(files.finite(asdict(result)))


def write_json(result: Any, path: str | Path) -> None:
    """Write a result as a JSON file."""
    files.write_json(asdict(result), path)
