"""What evaluations return: plain dataclasses that go to JSON and back to pictures."""

from __future__ import annotations

import math
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
    """Mean of the function that the updates descend (``CandidateSpace.objective``), per token or per board."""
    forward: float
    """Forward passes of the network that the answer took, all candidates together."""
    backward: float
    """Inner backward passes, likewise."""


@dataclass(frozen=True)
class LanguagePoint(Point):
    """Quality of next-token predictions; every mean is over all scored tokens."""

    nats: float
    """Cross entropy per token: the sum over all scored tokens, divided by their number."""
    nats_error: float | None
    """Standard error of ``nats`` over rows; None for a single row."""
    perplexity: float
    """``exp(nats)``."""
    accuracy: float
    auroc: float | None
    """How well a token's energy tells wrong predictions from right ones (see ``auroc``)."""


@dataclass(frozen=True)
class SudokuPoint(Point):
    """Quality of completed boards."""

    exact: float
    """Fraction of boards that are right in every cell."""
    exact_error: float
    """Standard error of ``exact``."""
    cell: float
    """Fraction of the empty cells that are right."""
    steps_taken: float
    """Mean number of updates that a candidate really made; fewer than ``steps`` under a tolerance."""
    board_auroc: float | None
    """How well a board's energy tells wrong boards from right ones."""
    cell_auroc: float | None
    """The same for the energies of single empty cells."""


@dataclass(frozen=True)
class ImagePoint(Point):
    """Quality of denoised images; means over images."""

    psnr: float
    """Peak signal-to-noise ratio, in dB."""
    psnr_error: float | None
    """Standard error of ``psnr`` over images; None for a single one."""
    mse: float
    """Mean square error of pixels in [0, 1]."""
    psnrs: list[float]
    """PSNR of every image, for paired comparisons."""


@dataclass(frozen=True)
class VideoPoint(Point):
    """Quality of predicted frames; means over all frames of all clips."""

    loss: float
    """Smooth L1 (beta 1), mean over the numbers of an encoded frame."""
    loss_error: float | None
    """Standard error of ``loss`` over clips; None for a single one."""
    spearman: float | None
    """Rank correlation of the energies of frames with their losses; None for a model without an energy."""
    losses: list[float]
    """Loss of every clip, for paired comparisons."""


P = TypeVar("P", bound=Point)


@dataclass(frozen=True)
class Curve(Generic[P]):
    """Quality against thinking steps, for one model on one set."""

    task: str
    """The problem's name."""
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
        return min(self.points, key=lambda point: (_cost(point), point.forward + point.backward))

    def at(self, steps: int, candidates: int = 1) -> P:
        """The point of a number of steps and candidates.

        Raises:
            KeyError: it was not measured.
        """
        for point in self.points:
            if (point.steps, point.candidates) == (steps, candidates):
                return point
        raise KeyError(f"{steps} steps with {candidates} candidates were not measured")


def _cost(point: Point) -> float:
    if isinstance(point, LanguagePoint):
        return point.nats
    if isinstance(point, VideoPoint):
        return point.loss
    return -point.psnr if isinstance(point, ImagePoint) else -getattr(point, "exact", math.nan)


def to_json(result: Any) -> dict[str, Any]:
    """A result as a JSON object; numbers that are not finite become null."""
    plain: dict[str, Any] = files.finite(asdict(result))
    return plain


def write_json(result: Any, path: str | Path) -> None:
    """Write a result as a JSON file."""
    files.write_json(to_json(result), path)
