"""Training starts flat: the zero head makes the first loss ln V, and the initial step size falls out of training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from toys import NETWORKS, SPACES, WIDTH, WORDS, make_network, make_space, make_table, make_target, normal, seeded

from ebt.thinking import Recipe, StepSize

pytestmark = pytest.mark.usefixtures("float64")

ROWS, PARTS = 4, 3
SCALES = (1.0, 50.0, 1000.0)


def train(kind: str, variant: str, name: str, alpha0: float, recipe: Recipe, updates: int) -> tuple[list[float], Tensor]:
    """Losses of a short training, and the first gradient of the head."""
    network = make_network(kind, variant, head_std=0, alpha0=alpha0)
    table, step_size = make_table(), StepSize(alpha0)
    x, target = nn.Parameter(normal(ROWS, PARTS, WIDTH, seed=1)), make_target(name, ROWS, PARTS)
    space = make_space(name, table, 2 if kind == "decoder" else 1)
    parameters = [*network.parameters(), *step_size.parameters(), x, *([] if name == "euclidean" else [table])]
    optimiser = torch.optim.AdamW(parameters, lr=0.01)
    generator, losses, first = seeded(0), [], torch.empty(0)
    for update in range(updates):
        optimiser.zero_grad()
        start = space.start((ROWS, PARTS), source=generator)
        outcome = space.supervise(network.encode(x), start, target, step_size, recipe, generator)
        outcome.loss.backward()
        head = network.head.projection.weight.grad
        assert head is not None
        if update == 0:
            first = head.clone()
            others = [p for p in parameters if p is not network.head.projection.weight]
            flat = "restart" in name and recipe.noise == 0
            assert not flat or not any(p.grad is not None and p.grad.any() for p in others)
        optimiser.step()
        losses.append(outcome.loss.item())
    return losses, first


@pytest.mark.parametrize("alpha0", SCALES)
@pytest.mark.parametrize("name", ["restart", "compact-restart"])
@pytest.mark.parametrize(("kind", "variant"), NETWORKS)
def test_the_first_loss_is_that_of_guessing(kind: str, variant: str, name: str, alpha0: float) -> None:
    losses, first = train(kind, variant, name, alpha0, Recipe(), updates=1)
    assert losses == [pytest.approx(math.log(WORDS), rel=1e-14)]
    assert first.any()


OTHERS = {
    "spread": Recipe(step_size_spread=2.0),
    "s1": Recipe.s1(),
    "s2": Recipe.s2(replay_size=0, replay_fraction=0),
}
EVERY_SPACE = [("encoder", "candidate", name, Recipe()) for name in SPACES]
EVERY_NETWORK = [(*network, "compact-restart", Recipe()) for network in NETWORKS]
EVERY_RECIPE = [pytest.param("decoder", "plain", "compact-restart", recipe, id=key) for key, recipe in OTHERS.items()]


@pytest.mark.parametrize(("kind", "variant", "name", "recipe"), [*EVERY_SPACE, *EVERY_NETWORK, *EVERY_RECIPE])
def test_training_does_not_depend_on_the_initial_step_size(kind: str, variant: str, name: str, recipe: Recipe) -> None:
    expected_losses, expected_gradient = train(kind, variant, name, SCALES[0], recipe, updates=3)
    assert expected_losses[-1] != expected_losses[0]
    for alpha0 in SCALES[1:]:
        losses, gradient = train(kind, variant, name, alpha0, recipe, updates=3)
        assert losses == pytest.approx(expected_losses, rel=1e-6)
        torch.testing.assert_close(gradient, expected_gradient)


def test_without_the_division_the_gradient_grows_with_the_step_size() -> None:
    """What the head's division by alpha0 is for."""

    def first_gradient(alpha: float) -> Tensor:
        network, table = make_network("decoder", head_std=0), make_table()
        space, target = make_space("compact-restart", table), make_target("", ROWS, PARTS)
        start = space.start((ROWS, PARTS), source=seeded(0))
        landscape = network.encode(normal(ROWS, PARTS, WIDTH, seed=1))
        space.supervise(landscape, start, target, StepSize(alpha), Recipe(), None, 2).loss.backward()
        assert network.head.projection.weight.grad is not None
        return network.head.projection.weight.grad

    torch.testing.assert_close(first_gradient(50.0), 50 * first_gradient(1.0))
