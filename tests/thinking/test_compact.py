"""The states of D numbers stand for states of V numbers: everything is equal, step by step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import WIDTH, WORDS, make_network, make_simplex, make_table, make_target, normal, seeded

from ebt.thinking import Recipe, StepSize

pytestmark = pytest.mark.usefixtures("float64")


@pytest.mark.parametrize("form", ["restart", "mirror"])
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**20),
    steps=st.integers(1, 4),
    alpha=st.floats(0.01, 3),
    mode=st.sampled_from(["full", "truncated", "detached"]),
    spread=st.sampled_from([1.0, 3.0]),
)
def test_compact_form_equals_the_form_on_logits(
    form: str, seed: int, steps: int, alpha: float, mode: str, spread: float
) -> None:
    rows, parts = 2, 3
    spread = 1.0 if mode == "detached" else spread
    recipe = Recipe(gradients=mode, step_size_spread=spread)  # type: ignore[arg-type]
    network = make_network("decoder", "candidate", seed=seed)
    table, step_size = make_table(seed), StepSize(alpha)
    x, target = nn.Parameter(normal(rows, parts, WIDTH, seed=seed)), make_target("", rows, parts, seed)
    compact, wide = make_simplex(f"compact-{form}", table), make_simplex(form, table)
    small = compact.start((rows, parts), source=seeded(seed))
    outcomes, gradients = [], []
    for space, start in ((compact, small), (wide, compact.logits(small))):
        outcome = space.supervise(network.encode(x), start, target, step_size, recipe, seeded(seed), steps)
        parameters = [*network.parameters(), table, step_size.log_scale, x]
        gradients.append(torch.autograd.grad(outcome.loss, parameters))
        outcomes.append(outcome)
    assert outcomes[0].thought.state.shape[-1] == WIDTH
    assert outcomes[1].thought.state.shape[-1] == WORDS
    for state, logits in zip(outcomes[0].thought.states, outcomes[1].thought.states, strict=True):
        torch.testing.assert_close(compact.logits(state), logits)
    torch.testing.assert_close(outcomes[0].thought.energies, outcomes[1].thought.energies)
    torch.testing.assert_close(outcomes[0].losses, outcomes[1].losses)
    if mode == "full":
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)
