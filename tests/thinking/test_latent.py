"""Descents with a latent vector beside each candidate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import WIDTH, WORDS, make_table, normal

from ebt.errors import InputError
from ebt.nn import EBTEncoder, NetworkConfig
from ebt.problems.sudoku.configuration import EBTSudokuConfig
from ebt.problems.sudoku.models import EBTForSudoku
from ebt.problems.sudoku.task import SudokuNetwork
from ebt.thinking import IGNORED, LatentSimplex, Recipe, Restart, StepSize, descend, supervise

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS, ALPHA, RATIO = 2, 5, 0.7, 1.3
FREE = torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]]).bool()


def bound() -> tuple[EBTEncoder, LatentSimplex, Tensor, Tensor]:
    """A network, a geometry, a context and states."""
    torch.manual_seed(0)
    network = EBTEncoder(NetworkConfig(layers=2, dim=WIDTH, heads=2, head="bilinear", head_init="unit"), ALPHA, latent=True)
    geometry = LatentSimplex(1, make_table(), ratio=torch.tensor(RATIO, requires_grad=True))
    return network, geometry, normal(ROWS, PARTS, WIDTH, seed=1), normal(ROWS, PARTS, WORDS + WIDTH, seed=2)


def parts_of(network: EBTEncoder, x: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients of the energy, written out: of the candidates, and of their latent vectors."""
    hidden = network.hidden(x, inside)
    normed = network.head.norm(hidden) * network.head.projection.weight[0] * network.head.scale
    return normed * FREE.unsqueeze(-1), F.normalize(hidden, dim=-1) * WIDTH**0.5 / (WIDTH * ALPHA)


def test_a_step_follows_the_formula() -> None:
    network, geometry, x, state = bound()
    seen = state[..., :WORDS].softmax(-1) @ geometry.table * FREE.unsqueeze(-1)
    latent = state[..., WORDS:]
    c, still = parts_of(network, x, seen + latent)
    found = descend(network.encode(x, FREE), state, steps=1, step_size=ALPHA, geometry=geometry, update=Restart())
    expected = torch.cat((ALPHA * c @ geometry.table.T, ALPHA * RATIO * WIDTH * still), -1)
    torch.testing.assert_close(found.state, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.energies[0], -(c * seen).sum(-1) - (still * latent).sum(-1), rtol=1e-4, atol=1e-5)
    assert found.evaluations.total == 2  # a pass for the step and one for the last energy, no inner backward pass


def test_the_slope_is_the_gradient_with_the_blocks_input_held_fixed() -> None:
    network, geometry, x, state = bound()
    view = geometry.view(state).detach()
    fixed = (view[..., :WIDTH] * FREE.unsqueeze(-1) + view[..., WIDTH:]).detach()
    c, still = parts_of(network, x, fixed)
    leaf = view.clone().requires_grad_()
    seen, latent = leaf.chunk(2, -1)
    (expected,) = torch.autograd.grad(-((-c * seen).sum() + (still * latent).sum()), leaf)
    energies, slope = network.encode(x, FREE).slope(view, 0)
    torch.testing.assert_close(slope[..., WIDTH:], -still, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slope, expected * torch.tensor([-1.0] * WIDTH + [1.0] * WIDTH), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(network.encode(x, FREE)(view, 0), energies)


def test_at_a_fixed_point_the_latent_part_of_the_gradient_vanishes() -> None:
    """``|z - n|^2 / 2`` has no gradient where ``z = n(z)``, through the blocks or not."""
    network, _, x, _ = bound()
    with torch.no_grad():
        for name, weight in network.blocks.named_parameters():
            weight.mul_(0.5 if "norm" not in name else 1.0)  # the iteration contracts
        latent = torch.zeros(ROWS, PARTS, WIDTH)
        for _ in range(400):
            latent = F.normalize(network.hidden(x, latent), dim=-1) * WIDTH**0.5
    leaf = latent.requires_grad_()
    residual = (leaf - F.normalize(network.hidden(x, leaf), dim=-1) * WIDTH**0.5).square().sum() / 2
    (gradient,) = torch.autograd.grad(residual, leaf)
    assert residual.item() < 1e-12
    assert gradient.abs().max().item() < 1e-6


RECIPES = (Recipe(2, 2), Recipe(2, 2, gradients="truncated", loss="last"), Recipe.s1(2))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda one: one.gradients)
def test_training_differentiates_the_formula(recipe: Recipe) -> None:
    network, geometry, x, state = bound()
    target = torch.randint(0, WORDS, (ROWS, PARTS)).masked_fill(~FREE, IGNORED)
    alpha = StepSize(ALPHA)
    found = supervise(network.encode(x, FREE), geometry, Restart(), state, target, alpha, recipe, steps=2)
    weights = [*network.parameters(), geometry.table, geometry.ratio, alpha.log_scale]
    gradients = torch.autograd.grad(found.loss, weights, allow_unused=True)

    losses, here = [], state
    for i in range(2):
        logits, latent = (here.detach() if recipe.gradients == "detached" else here).split((WORDS, WIDTH), -1)
        seen = logits.softmax(-1) @ geometry.table * FREE.unsqueeze(-1)
        c, still = parts_of(network, x, seen + latent)
        direction = torch.cat((c @ geometry.table.T, geometry.ratio * WIDTH * still), -1)
        here = alpha() * (direction.detach() if recipe.gradients == "truncated" and i == 0 else direction)
        losses.append(F.cross_entropy(here[..., :WORDS].flatten(0, 1), target.flatten(), ignore_index=IGNORED))
    loss = losses[-1] if recipe.loss == "last" else torch.stack(losses).mean()
    torch.testing.assert_close(found.loss, loss, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(gradients, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_central_differences_of_a_slope_are_refused() -> None:
    network, geometry, x, state = bound()
    target = torch.zeros(ROWS, PARTS, dtype=torch.long)
    with pytest.raises(ValueError, match="second_order"):
        supervise(network.encode(x), geometry, Restart(), state, target, ALPHA, Recipe(second_order="central"))


def board_model(**settings: Any) -> EBTForSudoku:
    torch.manual_seed(0)
    how = {"latent": True, "size": "nano", "layers": 2, "dim": 16, "heads": 2, "head": "bilinear", "head_init": "unit"}
    return EBTForSudoku(EBTSudokuConfig(4, **how | settings))


PUZZLES = torch.tensor([[1, 0, 0, 4, 0, 0, 1, 0, 0, 1, 0, 0, 4, 0, 0, 1], [0] * 16, [0] * 15 + [3]])


def contracting() -> EBTForSudoku:
    """A model whose boards settle, each after another number of steps."""
    model = board_model()
    with torch.no_grad():
        for name, weight in model.network.blocks.named_parameters():
            weight.mul_(1 if "norm" in name else 0.5)
    return model


def test_boards_that_stop_leave_the_others_alone() -> None:
    model = contracting()
    plain = model.think(PUZZLES, steps=14, candidates=3, tolerance=0.012, backend="plain").candidates
    fast = model.think(PUZZLES, steps=14, candidates=3, tolerance=0.012).candidates
    assert plain is not None
    assert fast is not None
    assert plain.steps.min() < plain.steps.max()
    torch.testing.assert_close(fast.state, plain.state)
    torch.testing.assert_close(fast.energies[-1], plain.energies[-1])


def test_a_long_descent_is_two_short_ones() -> None:
    """The memory is part of the state, so a descent continues from where it stopped."""
    model = board_model()
    landscape, geometry = model.landscape(PUZZLES), model.geometry()
    start = geometry.start(tuple(PUZZLES.shape), 1.0, torch.Generator().manual_seed(1))
    how: dict[str, Any] = {"step_size": model.step_size(), "geometry": geometry, "update": model.update()}
    whole = descend(landscape, start, steps=5, **how)
    half = descend(landscape, start, steps=2, **how)
    torch.testing.assert_close(descend(landscape, half.state, steps=3, **how).state, whole.state)


@pytest.mark.parametrize("rule", ["lowest", "settled", "visited"])
def test_exploring_chooses_as_thinking_does(rule: str) -> None:
    model = contracting()
    found = model.explore(PUZZLES, [2, 5], (1, 4), rule=rule, noise=0.5)
    for steps in (2, 5):
        thought = model.think(PUZZLES, steps=steps, candidates=4, rule=rule, noise=0.5)
        won = found.at(steps, 4)
        assert won.winner is not None
        assert torch.equal(won.winner, thought.winner)
        torch.testing.assert_close(won.state, thought.state)
        torch.testing.assert_close(won.energies[-1], thought.energies[-1])
        if rule != "visited":  # its last state may be that of any step before
            torch.testing.assert_close(won.objective(0), thought.objective(steps - 1))


def test_starts_and_noise_of_latent_vectors_are_small() -> None:
    geometry = LatentSimplex(1, nn.Parameter(torch.zeros(WORDS, 400)))
    start = geometry.start((50, 4), 2.0, torch.Generator().manual_seed(0))
    logits, latent = start.split((WORDS, 400), -1)
    assert logits.std().item() == pytest.approx(2, rel=0.1)
    assert latent.std().item() == pytest.approx(0.2, rel=0.05)
    noisy, _ = geometry.look(torch.zeros_like(start), torch.tensor(1.0), lambda like: torch.ones_like(like))
    assert noisy[0, 0].unique().tolist() == pytest.approx([0.1, 1.0])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"space": "mirror"}, "space"),
        ({"head": "linear", "head_init": "zero"}, "head"),
        ({"input_gradient": False}, "input_gradient"),
    ],
)
def test_settings_without_a_latent_energy_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        board_model(**settings)


@pytest.mark.parametrize(
    ("recipe", "named"),
    [({"warm_start": 0.5}, "warm_start"), ({"second_order": "central"}, "second_order"), ({"rows_at_once": 2}, "rows_at_once")],
)
def test_recipes_without_a_use_are_refused(recipe: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SudokuNetwork(latent=True, head="bilinear").check(Recipe(**recipe))
    with pytest.raises(InputError, match="latent"):
        SudokuNetwork(kind="looped_hidden", latent=True)
