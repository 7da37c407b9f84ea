"""A linear classifier on features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.probe import linear_probe, pooled_features


def clusters(each: int, classes: int = 6, spread: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around one place for each class."""
    places = torch.randn(classes, 8, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(classes).repeat(each)
    noise = torch.randn(len(labels), 8, generator=torch.Generator().manual_seed(seed))
    return 5 + 100 * (places[labels] + spread * noise), labels


def test_what_is_linearly_separable_is_learned() -> None:
    probe = linear_probe(*clusters(20), *clusters(10, seed=1))
    assert probe.top1 > 0.95
    assert (probe.classes, probe.train, probe.test) == (6, 120, 60)
    assert probe.top1 <= probe.top5


def test_what_is_noise_is_not() -> None:
    train, labels = clusters(30, spread=1e3)
    probe = linear_probe(train, labels, *clusters(30, spread=1e3, seed=1))
    assert probe.top1 < 0.35
    assert 0.6 < probe.top5 < 1
    assert probe.decay == 0.1 or probe.validation < 0.5


def test_features_are_means_over_patches() -> None:
    images = torch.randn(5, 1, 4, 4)
    found = pooled_features(lambda part: part.flatten(2).transpose(1, 2).double(), images, batch_size=2)
    torch.testing.assert_close(found, images.mean((2, 3)))


def test_too_little_is_refused() -> None:
    train, labels = clusters(20)
    with pytest.raises(InputError, match="a probe needs 10 of 2 classes"):
        linear_probe(train, torch.zeros_like(labels), train, labels)
    alone = torch.zeros_like(labels)
    alone[1] = 1
    with pytest.raises(InputError, match="give more of each"):  # the only example of a class is held out
        linear_probe(train[:10], alone[:10], train, labels, seed=2)
    with pytest.raises(InputError, match="a probe needs 10 of 2 classes"):
        linear_probe(train[:6], labels[:6], train, labels)
