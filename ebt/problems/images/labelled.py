"""Images with labels, for probes: a folder with a folder of images for each class, a dataset, or the embedded digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.sources import Images, image_files, open_image, to_array, to_square, to_tensor

DIGITS = "digits"
"""The name of the embedded digits, 8 x 8 pixels, of scikit-learn."""
HELD_OUT = 5
"""Every fifth image of a class is for testing, where the source does not say."""


@dataclass(frozen=True)
class Labelled:
    """Images (n, C, size, size) with values in [-1, 1], and their labels (n,)."""

    train: Tensor
    labels: Tensor
    test: Tensor
    test_labels: Tensor
    classes: list[str]


def labelled_images(source: str, size: int, channels: int, limit: int | None = None, seed: int = 0) -> Labelled:
    """Read labelled images, cut and resized to squares; a fifth of each class is held out for testing.

    Args:
        source: ``digits``; a folder with a folder for each class; or a
            dataset of the Hugging Face hub with the fields ``image`` and ``label``.
        size, channels: of the images that are returned.
        limit: at most so many images, drawn at random.
        seed: of the split and the draw.

    Raises:
        InputError: no such source, fewer than two classes, or images that cannot be read.
    """
    images, labels, classes = _read(source)
    order = np.random.default_rng(seed).permutation(len(images))[:limit]
    held = np.zeros(len(order), dtype=bool)
    for label in set(labels[order].tolist()):
        held[np.flatnonzero(labels[order] == label)[::HELD_OUT]] = True
    if len(classes) < 2 or held.all():
        raise InputError(
            f"{source} has {len(classes)} class(es) and {len(order)} images: a probe needs 2 classes and 10 images."
        )
    pixels = torch.stack([_square(images, int(i), size, channels) for i in order])
    chosen = torch.from_numpy(labels[order]).long()
    test = torch.from_numpy(held)
    return Labelled(pixels[~test], chosen[~test], pixels[test], chosen[test], classes)


def _square(images: Images, index: int, size: int, channels: int) -> Tensor:
    array = to_array(images.open(index), images.names[index], 3)
    picture = to_square(Image.fromarray(array.transpose(1, 2, 0)), size)
    return to_tensor(to_array(picture, images.names[index], channels))


def _read(source: str) -> tuple[Images, np.ndarray, list[str]]:
    if source == DIGITS:
        return _digits()
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "dataset_info.json").is_file() and not (path / "dataset_dict.json").is_file():
        return _folders(source, path)
    return _dataset(source)


def _digits() -> tuple[Images, np.ndarray, list[str]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise InputError(
            "the embedded digits come with scikit-learn: pip install 'energy-based-transformers[images]', or name a folder."
        ) from error
    digits: Any = load_digits()
    grey = (digits.images * (255 / 16)).round().astype(np.uint8)
    names = [f"digit {i}" for i in range(len(grey))]
    return Images(DIGITS, names, lambda i: Image.fromarray(grey[i])), digits.target, [str(i) for i in range(10)]


def _folders(source: str, path: Path) -> tuple[Images, np.ndarray, list[str]]:
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    files = [(file, label) for label, folder in enumerate(classes) for file in image_files(folder)]
    if len(classes) < 2:
        raise InputError(f"{source} has {len(classes)} folder(s): give one with a folder of images for each of its classes.")
    names = [str(file) for file, _ in files]
    labels = np.array([label for _, label in files])
    return Images(source, names, lambda i: open_image(files[i][0])), labels, [folder.name for folder in classes]


def _dataset(source: str) -> tuple[Images, np.ndarray, list[str]]:
    import datasets

    try:
        local = Path(source).expanduser().is_dir()
        data: Any = datasets.load_from_disk(source) if local else datasets.load_dataset(source)
    except Exception as error:  # the library and its downloads raise many kinds
        raise InputError(
            f"{source!r} is no folder and cannot be loaded as a dataset ({' '.join(str(error).split())}). Give '{DIGITS}', a "
            "folder with a folder for each class, or the id of a dataset of the hub (which needs the network)."
        ) from error
    part = data.get("train", next(iter(data.values()))) if isinstance(data, dict) else data
    label = part.features.get("label")
    if not isinstance(part.features.get("image"), datasets.Image) or label is None:
        raise InputError(f"{source} has the fields {sorted(part.features)}: a probe needs image and label.")
    labels = np.array(part["label"])
    classes = list(getattr(label, "names", None) or map(str, range(int(labels.max()) + 1)))
    names = [f"image {i} of {source}" for i in range(len(part))]
    return Images(source, names, lambda i: part[i]["image"]), labels, classes
