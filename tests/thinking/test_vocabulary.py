"""Work in chunks equals work on all logits at once, to second order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import WIDTH, WORDS, make_simplex, make_table, normal

from ebt.thinking import IGNORED, CompactSimplex
from ebt.thinking.fast import vocabulary

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS = 3, 5


@pytest.fixture(autouse=True, params=[(1, 2), (3 * WORDS, 3), (2**20, 2**20)], ids=["one state", "three states", "all"])
def _chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk, tile = request.param
    monkeypatch.setattr(vocabulary, "CHUNK", chunk)
    monkeypatch.setattr(vocabulary, "TILE", tile)


def state_and_table() -> tuple[Tensor, Tensor]:
    return normal(ROWS, PARTS, WIDTH, seed=1, std=3.0).requires_grad_(), make_table()


def assert_same_gradients(found: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(found, expected)
    weights = normal(*found.shape, seed=9)
    gradients = [torch.autograd.grad((value * weights).sum(), inputs, retain_graph=True) for value in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_views_losses_and_entropies() -> None:
    state, table = state_and_table()
    space, logits = CompactSimplex(2, table), state @ table.T
    assert_same_gradients(space.view(state), logits.softmax(-1) @ table, (state, table))
    target = torch.randint(0, WORDS, (ROWS, PARTS), generator=torch.Generator().manual_seed(0))
    target[0, :2] = IGNORED
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORED, reduction="none").view(ROWS, PARTS)
    assert_same_gradients(space.loss(state, target), expected, (state, table))
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    assert_same_gradients(space.entropy(state), entropy, (state, table))


def test_one_pass_gives_the_loss_its_slopes_and_the_view() -> None:
    state, table = state_and_table()
    space = CompactSimplex(2, table)
    target = torch.randint(0, WORDS, (ROWS, PARTS), generator=torch.Generator().manual_seed(0))
    target[1, 2:] = IGNORED
    weight, into = normal(ROWS, PARTS, seed=3), torch.ones(WORDS, WIDTH)
    found, slope_found, seen = space.assess(state, target, weight, into)
    losses = space.loss(state, target)
    slope, gradient = torch.autograd.grad((losses * weight).sum(), (state, table))
    torch.testing.assert_close(found, losses.detach())
    torch.testing.assert_close(slope_found, slope)
    torch.testing.assert_close(into, 1 + gradient)
    torch.testing.assert_close(seen.view.view_as(state), space.view(state).detach())
    attached = space.attach(state, seen)
    assert_same_gradients(attached, space.view(state), (state, table))


def test_logits_of_a_tile_alone_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = vocabulary._tiles

    def spy(*inputs: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for words, logits in real(*inputs):
            sizes.append(logits.numel())
            yield words, logits

    monkeypatch.setattr(vocabulary, "_tiles", spy)
    state, table = state_and_table()
    make_simplex("compact-mirror", table).view(state).sum().backward()
    assert sum(sizes) == 3 * ROWS * PARTS * WORDS
    states = max(1, vocabulary.CHUNK // WORDS)
    assert max(sizes) <= 2 * states * vocabulary.TILE
