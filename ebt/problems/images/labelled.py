"""Images with labels, for probes: a folder with a folder of images for each class, a dataset, or the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images import sources
from ebt.problems.images.sources import Images, OnError, to_array, to_square, to_tensor

DIGITS = "digits"
"""The name of the embedded digits, 8 x 8 pixels, of scikit-learn."""
HELD_OUT = 5
"""Every fifth image of a class is for testing."""
Known = tuple[Images, np.ndarray, list[str]]
"""Images, their labels, and the names of the classes."""


@dataclass(frozen=True)
class Labelled:
    """Images (n, C, size, size) with values in [-1, 1], and their labels (n,)."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: list[str]


def labelled_images(
    source: str, size: int, channels: int, limit: int | None = None, seed: int = 0, on_error: OnError = "skip"
) -> Labelled:
    """Read labelled images, cut and resized to squares; a fifth of each class is held out for testing.

    Args:
        source: ``digits``; a folder with a folder for each class; or a dataset with the fields ``image`` and ``label``.
        size: pixels of an edge of the images that are returned.
        channels: of the images that are returned: 1 or 3.
        limit: at most so many images, drawn at random.
        seed: of the split and the draw.
        on_error: images that cannot be read are left out with one warning ("skip"), or an error ("refuse").

    Raises:
        InputError: no such source, fewer than two classes, or images that cannot be read.
    """
    found, numbers, classes = _read(source)
    order = np.random.default_rng(seed).permutation(len(found))[:limit]
    images = found.part(order.tolist())
    good, _ = images.usable(on_error)
    labels = torch.from_numpy(numbers[order][good]).long()
    test = torch.zeros(len(good), dtype=torch.bool)
    for label in labels.unique():
        test[torch.nonzero(labels == label)[::HELD_OUT]] = True
    if len(classes) < 2 or test.all():
        raise InputError(f"{source} has {len(classes)} class(es) and {len(good)} images: a probe needs 2 and 10.")
    pixels = torch.stack([_square(images, index, size, channels) for index in good])
    return Labelled(pixels[~test], labels[~test], pixels[test], labels[test], classes)


def _square(images: Images, index: int, size: int, channels: int) -> Tensor:
    picture = Image.fromarray(images.read(index).transpose(1, 2, 0))
    return to_tensor(to_array(to_square(picture, size), images.names[index], channels))


def _read(source: str) -> Known:
    path = Path(source).expanduser()
    if source == DIGITS:
        grey, labels = sources.embedded_digits()
        return Images(DIGITS, [f"digit {i}" for i in range(len(grey))], partial(_digit, grey)), labels, list("0123456789")
    return _folders(source, path) if sources.is_plain_folder(path) else _dataset(source)


def _digit(grey: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(grey[index])


def _folders(source: str, path: Path) -> Known:
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{source} has {len(classes)} folder(s): give one with a folder of images for each of its classes.")
    files = [sources.files_in(folder, sources.SUFFIXES, "image") for folder in classes]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in files])
    return sources.of_files(source, list(chain(*files))), labels, [folder.name for folder in classes]


def _dataset(source: str) -> Known:
    parts = sources.open_dataset(source, "image")
    part = parts.get("train", next(iter(parts.values())))
    if "label" not in part.features:
        raise InputError(f"{source} has the fields {sorted(part.features)}: a probe needs image and label.")
    labels = np.array(part["label"])
    names = list(getattr(part.features["label"], "names", None) or map(str, range(int(labels.max()) + 1)))
    return sources.of_rows(source, part, "image"), labels, names
