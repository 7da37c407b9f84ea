"""Linear probes: a linear classifier on the features of a model, and labelled images to train it on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ebt.errors import InputError, naming_extras
from ebt.problems.images import sources
from ebt.problems.images.sources import Images, to_array, to_square, to_tensor
from ebt.problems.language.corpora import OnError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Regularisation strengths: ``mean cross entropy + strength * sum of squares``. Held-out training data choose one."""
HELD_OUT = 0.2
"""Share of the training examples that are held out to choose."""
LEAST = 10
"""Minimum number of training examples."""
DIGITS = "digits"
"""Name of the embedded digits of scikit-learn, 8 x 8 pixels."""
TESTED = 5
"""Every fifth image of a class is a test image."""


@dataclass(frozen=True)
class Probe:
    """Accuracy of a linear classifier on test data."""

    top1: float
    top5: float
    error: float
    """Standard error of ``top1``."""
    classes: int
    train: int
    test: int
    decay: float
    """Chosen regularisation strength."""
    validation: float
    """Accuracy on the held-out training images."""


@torch.no_grad()
def pooled_features(features: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 64) -> Tensor:
    """Average the features (B, S, D) that ``features`` returns for images (n, C, H, W) over the patches. Returns (n, D)."""
    return torch.cat([features(part).mean(1).float() for part in images.split(batch_size)])


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, seed: int = 0) -> Probe:
    """Fit scikit-learn's logistic regression on features (n, D) with labels (n,).

    Args:
        train: Features to learn from.
        labels: Their classes.
        test: Features on which the accuracy is measured.
        test_labels: Their classes.
        seed: Seed of the choice of held-out training examples.

    Raises:
        InputError: If there are fewer than two classes or too few examples, or scikit-learn is not installed.
    """
    with naming_extras():
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, ShuffleSplit
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    classes = len(labels.unique())
    if classes < 2 or len(train) < LEAST or not len(test):
        raise InputError(f"{len(train)} and {len(test)} images of {classes} class(es): a probe needs {LEAST} of 2 classes.")
    decays = {1 / (2 * len(train) * strength): strength for strength in STRENGTHS}  # scikit-learn sums, and halves squares
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    held = ShuffleSplit(1, test_size=HELD_OUT, random_state=seed)
    chosen: Any = GridSearchCV(classifier, {"logisticregression__C": list(decays)}, cv=held, error_score="raise")
    try:
        chosen.fit(train.cpu().numpy(), labels.cpu().numpy())
    except ValueError as error:  # only one class is left to learn from, or features are not finite
        raise InputError(f"{len(train)} images of {classes} classes cannot be learned ({error}): give more of each.") from error
    likely = chosen.predict_proba(test.cpu().numpy()).argsort(1)[:, ::-1]
    hits = chosen.classes_[likely] == test_labels.cpu().numpy()[:, None]
    top1, top5 = (float(hits[:, :top].any(1).mean()) for top in (1, 5))
    deviation = math.sqrt(top1 * (1 - top1) / len(test))
    decay = decays[chosen.best_params_["logisticregression__C"]]
    return Probe(top1, top5, deviation, classes, len(train), len(test), decay, float(chosen.best_score_))


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
    """Read labelled images, cropped and resized to squares. A fifth of each class is held out for testing.

    Args:
        source: ``digits``, a folder with one folder per class, or a dataset with the fields ``image`` and ``label``.
        size: Height and width of the returned images, in pixels.
        channels: Channels of the returned images, 1 or 3.
        limit: Maximum number of images, drawn at random.
        seed: Seed of the split and the draw.
        on_error: ``"skip"`` skips unreadable images with one warning, ``"refuse"`` raises an error for the first.

    Raises:
        InputError: If the source does not exist, has fewer than two classes, or has images that cannot be read.
    """
    path = Path(source).expanduser()
    if source == DIGITS:
        grey, numbers = sources.embedded_digits()
        found, classes = Images(DIGITS, [f"digit {i}" for i in range(len(grey))], grey, Image.fromarray), list("0123456789")
    else:
        found, numbers, classes = _folders(source, path) if sources.is_plain_folder(path) else _dataset(source)
    order = np.random.default_rng(seed).permutation(len(found))[:limit]
    images = found.part(order.tolist())
    good, _ = images.usable(on_error)
    labels = torch.from_numpy(numbers[order][good]).long()
    test = torch.zeros(len(good), dtype=torch.bool)
    for label in labels.unique():
        test[torch.nonzero(labels == label)[::TESTED]] = True
    if len(classes) < 2 or test.all():
        raise InputError(f"{source} has {len(classes)} class(es) and {len(good)} images: a probe needs 2 and 10.")
    squares = [to_square(Image.fromarray(images.read(i).transpose(1, 2, 0)), size) for i in good]
    pixels = torch.stack([to_tensor(to_array(square, source, channels)) for square in squares])
    return Labelled(pixels[~test], labels[~test], pixels[test], labels[test], classes)


def _folders(source: str, path: Path) -> tuple[Images, np.ndarray, list[str]]:
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if len(classes) < 2:
        raise InputError(f"{source} has {len(classes)} folder(s): give one with a folder of images for each of its classes.")
    files = [sources.files_in(folder, sources.SUFFIXES, "image") for folder in classes]
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in files])
    return sources.of_files(source, list(chain(*files))), labels, [folder.name for folder in classes]


def _dataset(source: str) -> tuple[Images, np.ndarray, list[str]]:
    parts = sources.open_dataset(source, "image")
    part = parts.get("train", next(iter(parts.values())))
    if "label" not in part.features:
        raise InputError(f"{source} has the fields {sorted(part.features)}: a probe needs the fields image and label.")
    labels = np.array(part["label"])
    names = list(getattr(part.features["label"], "names", None) or map(str, range(int(labels.max()) + 1)))
    return sources.of_rows(source, part, "image"), labels, names
