"""Central differences against double backward: every space, recipe, network, and energies of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import NETWORKS, SPACES, WIDTH, Waves, conditioning, make_network, make_space, make_table, make_target, normal, seeded

import ebt
from ebt.thinking import Recipe, StepSize, supervise
from ebt.thinking.fast.central import SIZES, TF32, leaves, nudge_size

pytestmark = [pytest.mark.usefixtures("float64"), pytest.mark.slow]

ROWS, PARTS = 2, 3
RECIPES: dict[str, Any] = {
    "s1": Recipe.s1,
    "s2": lambda **more: Recipe.s2(replay_size=0, replay_fraction=0.0, **more),
    "full": Recipe,
    "long": lambda **more: Recipe(min_steps=6, max_steps=6, loss="last", **more),
}


def gradients(loss: Tensor, learning: list[Tensor]) -> Tensor:
    found = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def assert_close(found: Tensor, exact: Tensor, error: float = 1e-6) -> None:
    assert exact.norm() > 0
    assert (found - exact).norm() <= error * exact.norm()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("prediction_dims", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_gradients_are_those_of_double_backward(space: str, prediction_dims: int, recipe: str) -> None:
    table, energy, step_size = make_table(), Waves(ROWS, PARTS), StepSize(0.5)
    made = make_space(space, table, prediction_dims)
    start = made.geometry.start((ROWS, PARTS), 1.0, seeded(3))
    target = make_target(space, ROWS, PARTS)

    def taken(**more: Any) -> Tensor:
        how = RECIPES[recipe](**more)
        loss = supervise(energy, made.geometry, made.update, start, target, step_size, how, seeded(4)).loss
        return gradients(loss, [table, *energy.parameters(), *step_size.parameters()])

    assert_close(taken(second_order="central"), taken(second_order="exact"))


@pytest.mark.parametrize("backend", ["plain", "auto"])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("kind", "variant"), NETWORKS)
def test_networks_have_the_gradients_of_double_backward(kind: str, variant: str, recipe: str, backend: str) -> None:
    """Each network, by plain back-propagation and step by step."""
    network, table = make_network(kind, variant, head_std=0.3), make_table()
    made = make_space("compact-restart", table, 2 if kind == "decoder" else 1)
    start = made.geometry.start((ROWS, PARTS), 1.0, seeded(3))
    context, target = normal(ROWS, PARTS, WIDTH, seed=7), make_target("compact-restart", ROWS, PARTS)
    landscapes = None if recipe != "long" or conditioning(variant) == "none" else 2

    def taken(way: str) -> Tensor:
        how = replace(RECIPES[recipe](second_order=way), landscapes=landscapes, max_steps=2, min_steps=2)
        energy = network.encode(context)
        loss = supervise(energy, made.geometry, made.update, start, target, 0.5, how, seeded(4), backend=backend).loss
        return gradients(loss, [table, *network.parameters()])

    assert_close(taken("central"), taken("exact"), 1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("kind", "variant"), NETWORKS)
def test_passes_of_their_own_accumulate_the_same_gradients(kind: str, variant: str, recipe: str) -> None:
    """With an input that learns, and a scaled loss, whose gradients add to earlier ones."""
    network, table, encoder = make_network(kind, variant, head_std=0.3), make_table(), nn.Linear(WIDTH, WIDTH)
    made = make_space("compact-restart", table, 2 if kind == "decoder" else 1)
    start = made.geometry.start((ROWS, PARTS), 1.0, seeded(3))
    context, target = normal(ROWS, PARTS, WIDTH, seed=7), make_target("compact-restart", ROWS, PARTS)
    learning = [table, *network.parameters(), *encoder.parameters()]
    how = replace(RECIPES[recipe](second_order="central"), max_steps=2, min_steps=2)

    def loss(backend: str) -> Tensor:
        energy = network.encode(encoder(context))
        return supervise(energy, made.geometry, made.update, start, target, 0.5, how, seeded(4), backend=backend).loss

    for weight in learning:
        weight.grad = torch.ones_like(weight)
    (3 * loss("accumulate")).backward()
    found = torch.cat([weight.grad.flatten() - 1 for weight in learning if weight.grad is not None])
    assert_close(found, 3 * gradients(loss("plain"), learning), 1e-8)


def test_passes_of_their_own_need_central_differences() -> None:
    energy, start = Waves(ROWS, PARTS), normal(ROWS, PARTS, WIDTH, seed=1)
    with pytest.raises(ValueError, match="set second_order to central"):
        ebt.thinking.supervise(
            energy, ebt.Euclidean(2, (WIDTH,)), ebt.Gradient(), start, start, 0.5, Recipe(second_order="exact"),
            backend="accumulate",
        )  # fmt: skip


def test_an_energy_of_ones_own_needs_nothing_written_for_it() -> None:
    """Whatever it learns is found: weights of a module, a tensor behind a context, one that it closes over."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    encoder, scale = nn.Linear(3, 4), nn.Parameter(torch.ones(()))
    context, target = normal(5, 3, seed=1), normal(5, 4, seed=2)

    def taken(way: str) -> Tensor:
        encoded = encoder(context)
        loss = ebt.loss(
            lambda y: scale * module(y + encoded).squeeze(-1) + (y * y).sum(-1) / 2,
            target,
            recipe=Recipe.s1(3, second_order=way),
            start=normal(5, 4, seed=3),
        )
        return gradients(loss, [*module.parameters(), *encoder.parameters(), scale])

    assert_close(taken("central"), taken("exact"))


def test_dropout_of_an_energy_of_ones_own_is_the_same_in_all_passes() -> None:
    module = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.3), nn.Tanh(), nn.Linear(32, 1))

    def taken(way: str) -> Tensor:
        torch.manual_seed(1)
        recipe = Recipe.s1(2, second_order=way)
        loss = ebt.loss(
            lambda y: module(y).squeeze(-1) + (y * y).sum(-1), normal(9, 4), recipe=recipe, start=normal(9, 4, seed=3)
        )
        return gradients(loss, list(module.parameters()))

    assert_close(taken("central"), taken("exact"))


@pytest.mark.parametrize("each", ["part", "row"])
def test_parts_that_see_each_other_in_an_energy_of_ones_own_are_nudged_together(each: str) -> None:
    torch.manual_seed(0)
    attention = nn.Linear(8, 8)

    def energy(y: Tensor) -> Tensor:
        parts = (((attention(y) @ y.mT).softmax(-1) @ y) * y).sum(-1) + (y * y).sum(-1)
        return parts if each == "part" else parts.sum(-1)

    def taken(way: str) -> Tensor:
        recipe = Recipe.s1(2, second_order=way)
        loss = ebt.loss(energy, normal(3, 6, 8), recipe=recipe, start=normal(3, 6, 8, seed=3), step_size=0.1)
        return gradients(loss, list(attention.parameters()))

    assert_close(taken("central"), taken("exact"))


def test_products_that_round_their_inputs_need_a_larger_nudge(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nudge_size(None, torch.float32, "cuda") == nudge_size(None, torch.float32) == SIZES[torch.float32]
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    assert nudge_size(None, torch.float32, "cuda") == TF32
    assert nudge_size(None, torch.float32) == SIZES[torch.float32]


def test_leaves_are_those_that_learn() -> None:
    candidate = normal(2, 3).requires_grad_()
    learns, constant, hidden = (normal(3, seed=seed).requires_grad_(seed != 2) for seed in (1, 2, 3))
    output = ((candidate.exp() * 2) * learns * constant * hidden.sin()).sum()
    assert {id(leaf) for leaf in leaves(output, without=candidate)} == {id(learns), id(hidden)}
    view = candidate.exp()
    assert [id(leaf) for leaf in leaves((view * learns).sum(), without=view)] == [id(learns)]


def test_a_prediction_without_a_slope_adds_nothing() -> None:
    energy = nn.Linear(3, 1)
    target = torch.stack([torch.zeros(3), torch.ones(3)])

    def taken(way: str) -> Tensor:
        loss = ebt.loss(
            lambda y: (y * y).sum(-1) / 2 + 0 * energy(y).squeeze(-1),
            target,
            recipe=Recipe.s1(1, second_order=way),
            start=torch.zeros(2, 3),
        )
        return gradients(loss, list(energy.parameters()))

    assert torch.equal(taken("central"), torch.zeros(4))


@pytest.mark.parametrize(("dtype", "nudge"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01)])
def test_a_nudge_that_rounding_swallows_is_refused(dtype: torch.dtype, nudge: float) -> None:
    table = torch.eye(3, dtype=dtype)
    with pytest.raises(ValueError, match="nudge"):
        ebt.loss(
            lambda y: (y * y).sum(-1),
            torch.zeros(2, dtype=torch.long),
            recipe=Recipe.s1(second_order="central", nudge=nudge),
            geometry=ebt.Simplex(1, table),
        )


def test_auto_is_exact_on_a_processor() -> None:
    def taken(way: str) -> Tensor:
        weight = nn.Parameter(torch.ones(3))
        loss = ebt.loss(
            lambda y: (weight * y).sin().sum(-1), torch.ones(2, 3), Recipe.s1(2, second_order=way), start=normal(2, 3)
        )
        return gradients(loss, [weight])

    assert torch.equal(taken("auto"), taken("exact"))
    assert not torch.equal(taken("auto"), taken("central"))


def test_a_nudge_needs_central_differences() -> None:
    for way in ("auto", "exact"):
        with pytest.raises(ValueError, match="nudge"):
            Recipe(second_order=way, nudge=0.01)  # type: ignore[arg-type]


def test_precision_is_that_of_the_forward_pass_wherever_backward_runs() -> None:
    network, target = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).float(), normal(5, 4, seed=2).float()
    start, types = normal(5, 4, seed=3).float(), set()
    network[0].register_forward_hook(lambda module, inputs, output: types.add(output.dtype))
    found = []
    for inside in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            loss = ebt.loss(lambda y: network(y).squeeze(-1), target, Recipe.s1(2, second_order="central"), start=start)
            if inside:
                found.append(gradients(loss, list(network.parameters())))
        if not inside:
            found.append(gradients(loss, list(network.parameters())))
    assert types == {torch.bfloat16}
    assert torch.equal(*found)
