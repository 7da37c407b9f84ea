from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import seeded

from ebt.thinking import StepSize
from ebt.thinking.recipe import draw_step_size

pytestmark = pytest.mark.usefixtures("float64")


@given(initial=st.floats(1e-3, 1e4), spread=st.floats(1.0, 10.0), seed=st.integers(0, 2**20))
def test_draws_stay_within_the_spread(initial: float, spread: float, seed: int) -> None:
    step_size = StepSize(initial)
    drawn = draw_step_size(step_size, (20, 30), spread, seeded(seed), torch.empty(0))
    assert torch.equal(drawn, draw_step_size(step_size, (20, 30), spread, seeded(seed), torch.empty(0)))
    assert drawn.min() >= initial / spread * (1 - 1e-12)
    assert drawn.max() <= initial * spread * (1 + 1e-12)
    if spread == 1:
        assert drawn.shape == ()
    else:
        assert drawn.shape == (20, 30)
        middle = (initial / spread + initial * spread) / 2  # uniform: the mean of 600 draws is within 6 deviations
        deviation = initial * (spread - 1 / spread) / 12**0.5
        assert drawn.mean().item() == pytest.approx(middle, abs=6 * deviation / 600**0.5 + 1e-12 * middle)


@given(initial=st.floats(1e-3, 1e4), spread=st.floats(1.0, 10.0), scale=st.floats(-2, 2))
def test_the_gradient_of_the_log_scale_is_the_step_size_itself(initial: float, spread: float, scale: float) -> None:
    step_size = StepSize(initial)
    step_size.log_scale.data.fill_(scale)
    drawn = draw_step_size(step_size, (3, 4), spread, seeded(0), torch.empty(0))
    (gradient,) = torch.autograd.grad(drawn.sum(), step_size.log_scale)
    torch.testing.assert_close(gradient, drawn.sum().detach())
    torch.testing.assert_close(step_size().detach(), torch.tensor(initial) * torch.tensor(scale).exp())


def test_a_fixed_step_size_does_not_learn() -> None:
    assert not StepSize(2.0, learnable=False)().requires_grad
    assert StepSize(2.0)().requires_grad


@pytest.mark.parametrize("initial", [0.0, -1.0, float("nan")])
def test_the_step_size_must_be_positive(initial: float) -> None:
    with pytest.raises(ValueError, match=r"step size is .*: give a positive number"):
        StepSize(initial)
