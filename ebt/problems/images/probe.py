"""What a model's features know: a linear classifier on top of them (linear probe), and images with labels to learn from."""

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

from ebt.errors import INSTALL, InputError
from ebt.problems.images import sources
from ebt.problems.images.sources import Images, to_array, to_square, to_tensor
from ebt.problems.skipped import OnError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the regularisation, ``mean cross entropy + strength * sum of squares``; a part of the training data chooses."""
HELD_OUT = 0.2
"""This share of the training examples."""
LEAST = 10
"""Training examples."""
DIGITS = "digits"
"""The name of the embedded digits, 8 x 8 pixels, of scikit-learn."""
TESTED = 5
"""Every fifth image of a class is for testing."""


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
    """The regularisation that was chosen."""
    validation: float
    """Accuracy on the training images that chose it."""


@torch.no_grad()
def pooled_features(features: Callable[[Tensor], Tensor], images: Tensor, batch_size: int = 64) -> Tensor:
    """Features (n, D) of images (n, C, H, W): means over the patches of what ``features`` returns, (B, S, D)."""
    return torch.cat([features(part).mean(1).float() for part in images.split(batch_size)])


def linear_probe(train: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, seed: int = 0) -> Probe:
    """scikit-learn's logistic regression on features (n, D) with labels (n,).

    Args:
        train: features to learn from.
        labels: their classes.
        test: features that the accuracy is measured on.
        test_labels: their classes.
        seed: of the choice of training data that choose the regularisation.

    Raises:
        InputError: fewer than two classes, too few examples, or scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, ShuffleSplit
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise InputError(f"a linear probe needs scikit-learn. {INSTALL}") from error
    classes = len(labels.unique())
    if classes < 2 or len(train) < LEAST or not len(test):
        raise InputError(f"{len(train)} and {len(test)} images of {classes} class(es): a probe needs {LEAST} of 2 classes.")
    decays = {1 / (2 * len(train) * strength): strength for strength in STRENGTHS}  # scikit-learn sums, and halves squares
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    held = ShuffleSplit(1, test_size=HELD_OUT, random_state=seed)
    chosen: Any = GridSearchCV(classifier, {"logisticregression__C": list(decays)}, cv=held, error_score="raise")
    try:
        chosen.fit(train.cpu().numpy(), labels.cpu().numpy())
    except ValueError as error:  # one class alone is left to learn from, or features are not finite
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
        raise InputError(f"{source} has the fields {sorted(part.features)}: a probe needs image and label.")
    labels = np.array(part["label"])
    names = list(getattr(part.features["label"], "names", None) or map(str, range(int(labels.max()) + 1)))
    return sources.of_rows(source, part, "image"), labels, names
