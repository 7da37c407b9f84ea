"""Which digits are seen in a frame: a classifier trained on clean ones, to judge predicted ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SHIFTS = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""A digit is known though it is seen one pixel beside its place."""


class DigitReader:
    """A support vector machine on crops, trained on clean digits and these moved by a pixel.

    Args:
        images: digits (n, P, P), 8 bits.
        labels: which they are (n,).
    """

    def __init__(self, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> None:
        from sklearn.svm import SVC

        self.side = images.shape[-1]
        wide = np.pad(images, ((0, 0), (1, 1), (1, 1)))
        places = [(slice(1 + row, 1 + row + self.side), slice(1 + column, 1 + column + self.side)) for row, column in SHIFTS]
        crops = np.concatenate([wide[:, rows, columns] for rows, columns in places])
        self.machine = SVC(C=10).fit(_features(crops), np.tile(labels, len(SHIFTS)))

    def read(self, frames: npt.NDArray[np.uint8], places: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The digits (B, n) at the upper left corners ``places`` (B, n, 2) of frames (B, H, W)."""
        crops = [
            frame[row : row + self.side, column : column + self.side]
            for frame, corners in zip(frames, places, strict=True)
            for row, column in corners
        ]
        found: npt.NDArray[Any] = self.machine.predict(_features(np.stack(crops)))
        return found.reshape(places.shape[:2])


def _features(crops: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    return crops.reshape(len(crops), -1) / 255.0
