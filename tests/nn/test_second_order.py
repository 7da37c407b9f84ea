"""Written out second derivatives against those that autograd makes of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toys import normal

from ebt.nn import causal, second_order
from ebt.nn.blocks import attend_context_and_self
from ebt.nn.second_order import attend, rms_norm, swiglu

pytestmark = pytest.mark.usefixtures("float64")

Function = Callable[..., Tensor]


def twice(function: Function, inputs: list[Tensor], first: int) -> list[Tensor]:
    """A value, its gradient with respect to the first inputs, and the gradients of a function of that and of the value."""
    inputs = [tensor.clone().requires_grad_() for tensor in inputs]
    value = function(*[tensor * 1.0 for tensor in inputs])
    slopes = torch.autograd.grad(value.sin().sum(), inputs[:first], create_graph=True)
    total = value.square().sum() + sum((slope.cos() * (i + 1)).sum() for i, slope in enumerate(slopes))
    return [value, *slopes, *torch.autograd.grad(total, inputs)]


def assert_equal(found: Function, expected: Function, inputs: list[Tensor], first: int) -> None:
    for one, other in zip(twice(found, inputs, first), twice(expected, inputs, first), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=[0, second_order.SMALL], ids=["written out", "small"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether tensors count as small."""
    monkeypatch.setattr(second_order, "SMALL", request.param)


@pytest.mark.usefixtures("size")
def test_norm() -> None:
    inputs = [normal(3, 5, seed=1), normal(5, seed=2)]
    assert_equal(lambda x, w: rms_norm(x, w, 0.1), lambda x, w: F.rms_norm(x, (5,), w, 0.1), inputs, 1)


@pytest.mark.usefixtures("size")
def test_swiglu() -> None:
    assert_equal(swiglu, lambda a, b: F.silu(a) * b, [normal(3, 5, seed=1), normal(3, 5, seed=2)], 2)


@pytest.mark.usefixtures("size")
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("first", [1, 3, 4])
def test_attention_of_everything_to_everything(biased: bool, first: int) -> None:
    """Also where only some inputs of the first derivative are asked for."""

    def plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        scores = q @ k.transpose(-1, -2) / 2
        return (scores + bias if biased else scores).softmax(-1) @ v + 0 * bias.sum()

    inputs = [*(normal(3, 2, 5, 4, seed=i) for i in range(3)), normal(2, 5, 5, seed=3)]
    assert_equal(lambda q, k, v, b: attend(q, k, v, b if biased else None) + 0 * b.sum(), plain, inputs, first)


@pytest.mark.parametrize(("candidates", "observed", "horizon"), [(7, 7, 1), (3, 8, 6), (1, 4, 4), (5, 7, 3)])
def test_attention(candidates: int, observed: int, horizon: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several blocks, for a whole sequence, its end, and one position."""
    monkeypatch.setattr(causal, "BLOCK", 3)
    visible = torch.arange(observed) < horizon + torch.arange(candidates).unsqueeze(1)
    inputs = [normal(2, 2, candidates, 4, seed=i) for i in range(3)] + [normal(2, 2, observed, 4, seed=i) for i in (3, 4)]
    assert_equal(
        lambda *tensors: causal.attend_causally(*tensors, horizon),
        lambda *tensors: attend_context_and_self(*tensors, visible),
        inputs,
        3,
    )


def test_a_constant_context_needs_no_gradient() -> None:
    q, k, v = (normal(1, 1, 3, 4, seed=i).requires_grad_() for i in range(3))
    context = normal(1, 1, 3, 4, seed=3)
    attended = causal.attend_causally(q, k, v, context, context, 1)
    assert len(torch.autograd.grad(attended.sum(), (q, k, v))) == 3


def test_third_derivatives_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_order, "SMALL", 0)
    x = normal(3, 4).requires_grad_()
    (slope,) = torch.autograd.grad(rms_norm(x, torch.ones(4), 0.1).sin().sum(), x, create_graph=True)
    (curve,) = torch.autograd.grad(slope.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        curve.sum().backward()
