"""What a model's features know: a linear classifier on top of them (linear probe)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ebt.errors import INSTALL, InputError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Of the regularisation, ``mean cross entropy + strength * sum of squares``; a part of the training data chooses."""
HELD_OUT = 0.2
"""This share of the training examples."""
LEAST = 10
"""Training examples."""


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
