"""What a model's features know: a linear classifier on top of them (linear probe)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Strengths of regularisation to choose from, on a part of the training data."""
HELD_OUT = 5
"""Every fifth training example chooses the regularisation."""


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
    """Logistic regression on features (n, D) with labels (n,), regularised as a part of the training data prefers.

    Args:
        train, labels: features and labels to learn from.
        test, test_labels: what the accuracy is measured on.
        seed: of the order in which training data are held out.

    Raises:
        InputError: fewer than two classes, or too few examples.
    """
    classes = int(labels.max()) + 1
    if classes < 2 or len(train) < 2 * HELD_OUT or not len(test):
        raise InputError(f"{len(train)} and {len(test)} images of {classes} class(es): a probe needs 2 classes and 10 images.")
    mean, std = train.mean(0), train.std(0).clamp(min=1e-6)
    train, test = (train - mean) / std, (test - mean) / std
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held, rest = order[::HELD_OUT], order[torch.arange(len(order)) % HELD_OUT != 0]
    scores = {decay: _hits(_fit(train[rest], labels[rest], classes, decay), train[held], labels[held], 1) for decay in DECAYS}
    decay = max(scores, key=lambda key: scores[key])
    weights = _fit(train, labels, classes, decay)
    top1 = _hits(weights, test, test_labels, 1)
    top5 = _hits(weights, test, test_labels, min(5, classes))
    return Probe(top1, top5, math.sqrt(top1 * (1 - top1) / len(test)), classes, len(train), len(test), decay, scores[decay])


def _fit(features: Tensor, labels: Tensor, classes: int, decay: float) -> Tensor:
    """Weights (D + 1, classes) of the regularised logistic regression."""
    inputs = F.pad(features, (0, 1), value=1.0)
    weights = torch.zeros(inputs.shape[1], classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = F.cross_entropy(inputs @ weights, labels) + decay * weights[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimiser.step(closure)
    return weights.detach()


def _hits(weights: Tensor, features: Tensor, labels: Tensor, top: int) -> float:
    best = (F.pad(features, (0, 1), value=1.0) @ weights).topk(top, -1).indices
    return (best == labels.unsqueeze(-1)).any(-1).double().mean().item()
