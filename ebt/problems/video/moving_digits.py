"""Moving digits: handwritten digits of scikit-learn that bounce in a small frame, in any number and without a download.
Also a classifier of the digits in a frame, to judge predictions.

Letters: T frames of H x W pixels, n digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ebt.errors import InputError
from ebt.problems.images.sources import embedded_digits
from ebt.problems.language.corpora import SPLITS

DIGITS = "digits"
"""Name of the moving digits."""
SIDE = 8
"""Height and width of a digit, in pixels."""
SHARES = (0.7, 0.15, 0.15)
"""Shares of the images for training, validation and test."""
SHIFTS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
"""Shifts by up to a pixel at which a digit is recognised."""

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DigitImages:
    """The digits of a split, (n, 8, 8), and their labels (n,)."""

    images: Frames
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class DigitClip:
    """A clip and its contents."""

    frames: Frames
    """Frames (T, 1, H, W)."""
    labels: npt.NDArray[np.int64]
    """Labels of the digits, (n,)."""
    places: npt.NDArray[np.int64]
    """Row and column of the upper left corner of each digit in each frame, (T, n, 2)."""
    arrival: int
    """Index of the frame in which the last digit appears. 0 if it is there from the beginning."""


@cache
def digit_images() -> dict[str, DigitImages]:
    """Return the digits by split, without a common image. The splits are fixed."""
    grey, labels = embedded_digits()
    order = np.random.default_rng(0).permutation(len(grey))
    parts = np.split(order, np.cumsum([round(share * len(grey)) for share in SHARES[:-1]]))
    return {split: DigitImages(grey[part], labels[part]) for split, part in zip(SPLITS, parts, strict=True)}


@dataclass(frozen=True)
class MovingDigits:
    """Clips, each a function of (seed, split, epoch, index). The same clip can have any length.

    Digits move by whole pixels and are reflected by the walls. Where they overlap, the lighter one is visible.

    Raises:
        InputError: If settings contradict each other.
    """

    split: str = "train"
    size: int = 14
    """Height and width of a frame, in pixels."""
    digits: int = 1
    speeds: Sequence[int] = (1, 2)
    """Speeds to draw from, in pixels per frame along each axis."""
    arrival: float = 0.0
    """Share of the clips in which the last digit appears later, in one of the frames 2 to 12."""
    seed: int = 0

    def __post_init__(self) -> None:
        room = self.size - SIDE
        if self.digits < 1 or not 0 <= self.arrival <= 1:
            raise InputError(f"digits {self.digits}, arrival {self.arrival}: give at least 1 digit, and a share from 0 to 1.")
        if not self.speeds or min(self.speeds) < 0 or max(self.speeds) > room or max(self.speeds) < 1:
            raise InputError(
                f"speeds is {list(self.speeds)} and size {self.size}: digits of {SIDE} pixels have {max(0, room)} to move in. "
                "Give speeds from 1 to that, or a larger size."
            )

    def clip(self, index: int, length: int, epoch: int = 0) -> DigitClip:
        """Return a clip of ``length`` frames."""
        random = np.random.default_rng((self.seed, SPLITS.index(self.split), epoch, index))
        source = digit_images()[self.split]
        chosen = random.integers(len(source.images), size=self.digits)
        start = random.integers(self.size - SIDE + 1, size=(self.digits, 2))
        speed = random.choice(self.speeds, size=(self.digits, 2)) * random.choice((-1, 1), size=(self.digits, 2))
        late, when = random.random() < self.arrival, int(random.integers(2, 13))
        places = bounce(start + speed * np.arange(length)[:, None, None], self.size - SIDE)
        frames = np.zeros((length, 1, self.size, self.size), dtype=np.uint8)
        for digit, image in enumerate(source.images[chosen]):
            first = when if late and digit == self.digits - 1 else 0
            for frame, (row, column) in zip(frames[first:, 0], places[first:, digit], strict=True):
                part = frame[row : row + SIDE, column : column + SIDE]
                np.maximum(part, image, out=part)
        return DigitClip(frames, source.labels[chosen], places, when if late else 0)


def bounce(way: npt.NDArray[np.int64], room: int) -> npt.NDArray[np.int64]:
    """Position after moving the distance ``way`` along an axis with walls at 0 and ``room``."""
    folded = way % (2 * room)
    return np.where(folded > room, 2 * room - folded, folded)


class DigitReader:
    """Support vector machine on crops, trained on clean digits (n, P, P) with labels (n,), also shifted by a pixel."""

    def __init__(self, images: Frames, labels: npt.NDArray[Any]) -> None:
        from sklearn.svm import SVC

        self.side = images.shape[-1]
        wide = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        crops = np.concatenate([np.roll(wide, shift, (1, 2))[:, 1:-1, 1:-1] for shift in SHIFTS])
        self.machine = SVC(C=10).fit(_features(crops), np.tile(labels, len(SHIFTS)))

    def read(self, frames: Frames, places: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Classify the digits (B, n) at the upper left corners ``places`` (B, n, 2) of frames (B, H, W)."""
        crops = [
            frame[row : row + self.side, column : column + self.side]
            for frame, corners in zip(frames, places, strict=True)
            for row, column in corners
        ]
        found: npt.NDArray[Any] = self.machine.predict(_features(np.stack(crops)))
        return found.reshape(places.shape[:2])


def _features(crops: Frames) -> npt.NDArray[np.float64]:
    return crops.reshape(len(crops), -1) / 255.0
