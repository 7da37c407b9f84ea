"""Compare the two ways to take gradients of gradients (``Recipe.second_order``) on one training batch."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError
from ebt.thinking.fast.central import least_nudge, nudge_size
from ebt.training.second_order import SecondOrder, computing_dtype, once_only
from ebt.training.task import Batch, ThinkingTask

LIMITS = {torch.float64: 1e-4, torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest relative error for each dtype that is harmless. In 16 bits, double backward itself is off by a few per cent."""
OTHERS = (0.25, 0.5, 2.0, 4.0)
"""Other nudges to try if the error is larger, as multiples."""
SHOWN = 5
"""Number of parameters to tell about."""


@dataclass(frozen=True)
class Difference:
    """Gradient by central differences against that by double backward."""

    name: str
    error: float
    """Norm of the difference over the norm of the exact gradient."""
    cosine: float
    share: float
    """Norm of the exact gradient over that of all weights together."""


@dataclass(frozen=True)
class Check:
    """The gradients of one update, both ways."""

    nudge: float
    limit: float
    """Largest relative error that is harmless in this precision."""
    whole: Difference
    """All weights together."""
    worst: tuple[Difference, ...]
    """The parameters with the largest differences, in order."""
    losses: dict[str, float]
    seconds: dict[str, float]
    others: dict[float, float] = field(default_factory=dict)
    """Relative errors with other nudges, if that of ``nudge`` is larger than the limit."""
    steady: bool = False
    """Whether other nudges give the same gradient in that case: then double backward is wrong."""
    without: int = 0
    """Number of parameters whose gradient is zero or missing."""
    count: int = 0
    """Number of parameters."""


@dataclass(frozen=True)
class _Update:
    loss: float
    gradients: dict[str, Tensor]
    seconds: float


def compare(trainer: L.Trainer, task: ThinkingTask, batch: Batch) -> Check:
    """Take the gradient of a whole update both ways, with the same random draws. No weight changes.

    Raises:
        InputError: If the task has no energy, its energy cannot be differentiated twice, or the gradients are not finite or
            all zero.
    """
    dtype = computing_dtype(trainer, task)
    nudge, limit = nudge_size(task.recipe.nudge, dtype, task.device.type), LIMITS[dtype]
    central = _timed(trainer, task, batch, _central(nudge))
    exact = _exact(trainer, task, batch)
    remedy = "check the loss and the second derivatives of the energy, or use a higher trainer.precision."
    _check_finite(exact, "double backward", remedy)
    remedy = "the energy must be finite near candidates, too. Lower recipe.nudge, or set recipe.second_order to exact."
    _check_finite(central, f"central differences, nudge {nudge:g},", remedy)
    norm = _norm(exact.gradients)
    if not norm > 0:
        raise InputError("the gradient of all weights is zero on this batch: check a trained run with --resume.")
    found = [_difference(name, central.gradients[name], one, norm) for name, one in exact.gradients.items() if one.any()]
    whole = _whole(central, exact)
    sizes = [nudge * factor for factor in OTHERS] if whole.error > limit else []
    others = {size: _update(trainer, task, batch, _central(size)) for size in sizes if least_nudge(dtype) <= size < 1}
    return Check(
        nudge=nudge,
        limit=limit,
        whole=whole,
        worst=tuple(sorted(found, key=lambda one: -one.error * one.share)[:SHOWN]),
        losses={"exact": exact.loss, "central": central.loss},
        seconds={"exact": exact.seconds, "central": central.seconds},
        others={size: _whole(other, exact).error for size, other in others.items()},
        steady=any(_whole(other, central).error <= limit for other in others.values()),
        without=len(exact.gradients) - len(found),
        count=len(exact.gradients),
    )


def _central(nudge: float) -> SecondOrder:
    return SecondOrder("central", nudge, "checked")


def _exact(trainer: L.Trainer, task: ThinkingTask, batch: Batch) -> _Update:
    try:
        return _timed(trainer, task, batch, SecondOrder("exact", None, "checked"))
    except RuntimeError as error:
        if "memory" in str(error):
            raise
        raise once_only(error) from error


def _check_finite(update: _Update, way: str, remedy: str) -> None:
    for name, gradient in update.gradients.items():
        if not gradient.isfinite().all():
            raise InputError(f"the gradient of {name} by {way} is not finite on this batch: {remedy}")


def _timed(trainer: L.Trainer, task: ThinkingTask, batch: Batch, way: SecondOrder) -> _Update:
    """The second of two equal updates, because the first one includes warm-up."""
    _update(trainer, task, batch, way)
    return _update(trainer, task, batch, way)


def _update(trainer: L.Trainer, task: ThinkingTask, batch: Batch, way: SecondOrder) -> _Update:
    named = {name: parameter for name, parameter in task.named_parameters() if parameter.requires_grad}
    devices = [task.device] if task.device.type == "cuda" else []
    scale = 1.0 if trainer.scaler is None else trainer.scaler.get_scale()  # small float16 gradients would be zero
    task.restart_draws()
    task.second_order = way
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(task.seed)  # of dropout, for example
        began = _now(task.device)
        with trainer.precision_plugin.train_step_context():
            outcome = task.learn(batch)
        if outcome.thought is None:
            raise InputError(f"{type(task).__name__} learns without an energy: there are no gradients of gradients to check.")
        task.zero_grad()
        (outcome.loss * scale).backward()  # not torch.autograd.grad, which passes over functions without a second derivative
        seconds = _now(task.device) - began
    gradients = {
        name: torch.zeros(weight.shape, dtype=torch.float64) if weight.grad is None else weight.grad.cpu().double() / scale
        for name, weight in named.items()
    }
    task.zero_grad()
    return _Update(outcome.loss.item(), gradients, seconds)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def _norm(gradients: dict[str, Tensor]) -> float:
    return float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())


def _whole(found: _Update, exact: _Update) -> Difference:
    one, other = (torch.cat([each.flatten() for each in update.gradients.values()]) for update in (found, exact))
    return _difference("all weights", one, other, _norm(exact.gradients))


def _difference(name: str, found: Tensor, exact: Tensor, norm: float) -> Difference:
    size = exact.norm()
    cosine = F.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    return Difference(name, float((found - exact).norm() / size), float(cosine), float(size) / norm)
