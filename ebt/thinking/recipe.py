"""Training recipes (paper, section 3.2), and the loss of one batch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from ebt.checks import as_tensor, check_fields, check_kind
from ebt.thinking.descent import (
    Energy,
    Gradients,
    check_parts,
    check_start,
    check_step_size,
    descend,
    leave_inference_mode,
    own_slope,
)
from ebt.thinking.fast.central import Nudge, Way, way_on
from ebt.thinking.fast.draws import Rows, draw_integer
from ebt.thinking.geometry import IGNORED, Euclidean, Geometry, Simplex
from ebt.thinking.noise import Draws, precise
from ebt.thinking.ranking import rank
from ebt.thinking.thought import Thought
from ebt.thinking.update import Gradient, Update


class StepSize(nn.Module):
    """Learnable step size ``alpha = initial * exp(log_scale)``.

    It stays positive, and its relative rate of change does not depend on ``initial``. It stays in float32 when a model is
    converted to 16 bits, where its updates would be rounded away.

    Raises:
        ValueError: If ``initial`` is not positive.
    """

    def __init__(self, initial: float, learnable: bool = True) -> None:
        super().__init__()
        check_kind("step size", initial, int | float, "give a positive number")  # type: ignore[arg-type]
        if not initial > 0:
            raise ValueError(f"step size is {initial}: give a positive number")
        self.initial = initial
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.initial * precise(self.log_scale).exp()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Called by ``to``, ``half`` and similar methods on all parameters."""

        def convert(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            rounded = changed.is_floating_point() and changed.dtype.itemsize < 4
            return tensor.to(changed.device, torch.float32) if rounded else changed

        return super()._apply(convert, recurse)


LIMITS = {
    **dict.fromkeys(("min_steps", "max_steps", "landscapes", "step_size_spread", "rows_at_once"), (1, math.inf)),
    **dict.fromkeys(("noise", "start_std", "replay_size", "burn_in", "ranking"), (0, math.inf)),
    "replay_fraction": (0, 1),
}
"""Smallest and largest allowed value of fields of ``Recipe``."""


@dataclass(frozen=True)
class Recipe:
    """How a model thinks during training.

    By default gradients flow through the whole descent and every step has a loss. ``Recipe.s1()`` and ``Recipe.s2()`` are the
    recipes of the paper, ``Recipe.warm()`` is this library's recipe for language. Invalid settings raise ``ValueError``.
    """

    min_steps: int = 2
    max_steps: int = 3
    """The number of steps is drawn for each batch, from ``min_steps`` to ``max_steps`` inclusive."""
    landscapes: int | None = None
    """Number of step indices of a conditioned network, each used for several steps, as in the published code. None: every step
    has its own index."""
    repeated: Literal["all", "last"] = "all"
    """Which landscapes are used for more than one step."""
    gradients: Gradients = "full"
    """How gradients flow through the descent, see ``ebt.thinking.Gradients``."""
    loss: Literal["every", "last"] = "every"
    """Which steps have a loss."""
    step_size_spread: float = 1.0
    """The step size of each prediction is drawn from [alpha / spread, alpha * spread]."""
    noise: float = 0.0
    """Standard deviation of the Langevin noise."""
    start_std: float = 1.0
    """Standard deviation of the starting candidates (of their logits, on a vocabulary)."""
    clamp: float | None = None
    """Largest absolute value of an element of the direction. None: no bound."""
    replay_size: int = 0
    """Number of records in the replay buffer. 0: no buffer."""
    replay_fraction: float = 0.0
    """Number of replayed rows added to a batch, as a fraction of the batch size."""
    burn_in: int = 0
    """Largest number of steps without gradients in front of the trained ones. The number is drawn for each batch, from 0. So
    late states are trained, too, at the cost of the passes (as in recurrent networks, Kapturowski et al. 2019)."""
    burn_in_start: float = 0.0
    """Fraction of training after which the burn-in begins. Early descents are not worth following."""
    warm_start: float = 0.0
    """Initial fraction of training during which the blocks do not see the candidates. Its one step is a pass of the
    feed-forward twin (autoregressive: two passes, one of them for the context). Not for linear energy heads."""
    ranking: float = 0.0
    """Weight of a loss of the final states' energies, by which wrong predictions get higher ones than right ones
    (``ebt.thinking.ranking``). It takes one more pass and, for separable landscapes, one more encoding of the context. 0, as in
    the paper: energies are not supervised. The warm start has none."""
    second_order: Way = "auto"
    """How gradients of gradients are computed. exact: double backward. central: central differences of first derivatives
    (``ebt.thinking.fast.central``). auto: exact on CPUs, central elsewhere."""
    nudge: float | None = None
    """Size of central differences, relative to the norm of a candidate. None: depends on the precision."""
    rows_at_once: int | None = None
    """Number of rows whose gradients are computed at once. Fewer rows need less memory. None: a few on CPUs, else all."""

    def __post_init__(self) -> None:
        check_fields(self, LIMITS)
        steps, replay = (self.min_steps, self.max_steps), (self.replay_size, self.replay_fraction)
        rules = {
            "gradients": (self.gradients != "none", "choose detached, truncated or full for training"),
            "warm_start": (0 <= self.warm_start < 1, "give a fraction of training, at least 0 and below 1"),
            "burn_in_start": (0 <= self.burn_in_start < 1, "give a fraction of training, at least 0 and below 1"),
            "nudge": (self.nudge is None or 0 < self.nudge < 1, "give a number above 0 and below 1, or null for the default"),
            "clamp": (self.clamp is None or self.clamp > 0, "give a positive bound, or null for none"),
        }
        for name, (right, remedy) in rules.items():
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)!r}: {remedy}")
        if self.nudge is not None and self.second_order != "central":
            raise ValueError("nudge is for central differences: leave it out, or set second_order to central")
        if steps[0] > steps[1]:
            raise ValueError("min_steps {} and max_steps {}: choose min_steps <= max_steps".format(*steps))
        if (replay[0] > 0) != (replay[1] > 0):
            remedy = "set both (fraction in (0, 1]) or neither"
            raise ValueError("replay_size {} with replay_fraction {}: {}".format(*replay, remedy))
        if self.burn_in_start and not self.burn_in:
            raise ValueError(
                f"burn_in_start is {self.burn_in_start}, but burn_in is 0: set burn_in, or leave burn_in_start out"
            )
        if self.burn_in and self.landscapes is not None:
            remedy = "schedules of several landscapes have no burn-in, so set burn_in to 0, or landscapes to null"
            raise ValueError(f"burn_in is {self.burn_in} and landscapes {self.landscapes}: {remedy}")
        if self.gradients == "detached" and (self.noise > 0 or self.replay_size > 0 or self.step_size_spread > 1):
            raise ValueError(
                "gradients: detached is the S1 recipe, which has no noise, replay buffer or random step size: "
                "drop them, or set gradients to truncated (S2) or full"
            )

    @classmethod
    def s1(cls, steps: int = 2, **overrides: Any) -> Recipe:
        """The System 1 recipe (paper, section 3.2): fixed number of steps, detached, loss at every step, no regularisers."""
        return cls(**{"min_steps": steps, "max_steps": steps, "gradients": "detached", **overrides})

    @classmethod
    def s2(cls, **overrides: Any) -> Recipe:
        """The System 2 recipe (paper, section 3.3, table 2): random numbers of steps and step sizes, Langevin noise, replay
        buffer, loss at the last step."""
        regularised = {"step_size_spread": 2.0, "noise": 0.1, "replay_size": 1000, "replay_fraction": 0.25}
        return cls(**{"gradients": "truncated", "loss": "last", **regularised, **overrides})

    @classmethod
    def warm(cls, **overrides: Any) -> Recipe:
        """This library's recipe for language: half of training as the feed-forward twin, then a random number of steps with a
        loss and a gradient at the last one."""
        settings = {"min_steps": 1, "max_steps": 3, "gradients": "truncated", "loss": "last", "warm_start": 0.5}
        return cls(**{**settings, **overrides})

    @property
    def told_steps(self) -> int:
        """Number of step indices of a conditioned network."""
        return self.max_steps if self.landscapes is None else self.landscapes

    @property
    def own_steps(self) -> int:
        """Number of steps in evaluation: the maximum. Of several landscapes, the last one is repeated."""
        return self.max_steps if self.landscapes is None else self.landscapes - 1 + self.max_steps

    @property
    def mean_steps(self) -> float:
        """Mean number of steps of a training batch, over all landscapes."""
        mean = (self.min_steps + self.max_steps) / 2
        if self.landscapes is None:
            return mean
        return self.landscapes * mean if self.repeated == "all" else self.landscapes - 1 + mean

    @property
    def mean_burn_in(self) -> float:
        """Mean number of burn-in steps of a batch, over the whole training."""
        return self.burn_in / 2 * (1 - max(self.burn_in_start, self.warm_start))

    def on(self, device: str) -> Recipe:
        """The recipe on a type of device (``cpu``, ``cuda``), with ``second_order`` resolved."""
        return replace(self, second_order=way_on(device, self.second_order))

    def draw_schedule(self, generator: torch.Generator | None = None) -> tuple[int, ...]:
        """Draw the steps of one batch, as step indices passed to the network."""

        def count() -> int:
            return draw_integer(self.min_steps, self.max_steps + 1, generator)

        if self.landscapes is None:
            return tuple(range(count()))
        last = self.landscapes - 1
        repeats = [count() if self.repeated == "all" or i == last else 1 for i in range(self.landscapes)]
        return tuple(i for i, number in enumerate(repeats) for _ in range(number))

    def draw_burn_in(self, generator: torch.Generator | None = None) -> int:
        """Draw the number of burn-in steps of one batch."""
        return draw_integer(0, self.burn_in + 1, generator) if self.burn_in else 0


@dataclass(frozen=True)
class Supervised:
    """The result of one training batch."""

    loss: Tensor
    """Scalar to back-propagate: the mean over the steps that have a loss."""
    losses: Tensor
    """Mean loss after each step, (T,), without gradients."""
    thought: Thought
    ranking: Tensor | None = None
    """Ranking loss of the final states, without gradients and weight; None if it is not used."""


def loss(
    energy: Energy,
    target: Tensor,
    recipe: Recipe | None = None,
    *,
    start: Tensor | None = None,
    step_size: StepSize | Tensor | float = 1.0,
    geometry: Geometry | None = None,
    update: Update | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> Tensor:
    """Loss of one batch under a recipe (paper, section 3.2). Without ``recipe.ranking``, energies are not supervised.

    Args:
        energy: See ``descend``.
        target: Target of the candidates: vectors (N, *P, K), or vocabulary indices (N, *P) with a suitable ``geometry``.
        recipe: Training recipe. Default: ``Recipe()``. The caller handles ``replay_size``, ``warm_start`` and
            ``burn_in_start``. ``rows_at_once`` is for landscapes of this library's models, and updates without a memory. A
            ``UserWarning`` says so.
        start: Starting states, for example from a ``ReplayBuffer``. Default: normal draws with ``recipe.start_std``.
        step_size: Step size alpha, a learnable ``StepSize`` or a scalar.
        geometry: See ``descend``.
        update: See ``descend``.
        generator: Source of all random draws.
        backend: See ``supervise``.

    Returns:
        A scalar to back-propagate.

    Raises:
        ValueError: If ``target`` holds indices and ``geometry`` is missing, or an argument does not fit the others.
    """
    check_kind("recipe", recipe, Recipe, "give an ebt.Recipe, for example ebt.Recipe.s1()")
    if not isinstance(target, Tensor):
        raise ValueError(f"target is {target!r}: give a tensor of vectors (N, *P, K) or indices (N, *P)")
    check_parts(energy, geometry, update, generator=generator)
    check_step_size(step_size)
    recipe = Recipe() if recipe is None else recipe
    if geometry is None:
        if not target.is_floating_point():
            raise ValueError(f"target has dtype {target.dtype}: pass a vocabulary's geometry, for example Simplex(1, table)")
        geometry = Euclidean(max(1, target.dim() - 1), tuple(target.shape[-1:]), like=target)
    if recipe.replay_size and start is None:
        remedy = "pass states of an ebt.ReplayBuffer as start, or set replay_size and replay_fraction to 0"
        warnings.warn(f"recipe.replay_size is {recipe.replay_size}, but loss() keeps no replay buffer: {remedy}", stacklevel=2)
    if recipe.warm_start:
        remedy = "set it to 0, and pass landscape.unseen() during the warm start"
        warnings.warn(f"recipe.warm_start is {recipe.warm_start}, but loss() ignores it: {remedy}", stacklevel=2)
    if recipe.burn_in_start:
        remedy = "set it to 0, and burn_in to 0 until then"
        warnings.warn(f"recipe.burn_in_start is {recipe.burn_in_start}, but loss() ignores it: {remedy}", stacklevel=2)
    if start is None:
        parts = target.shape[: -len(geometry.shape) or None] if isinstance(geometry, Euclidean) else target.shape
        start = geometry.start(tuple(parts), recipe.start_std, generator)
    check_start(start)
    check_target(target, start, geometry)
    update = Gradient() if update is None else update
    if recipe.rows_at_once and not _by_rows(energy, update, start, backend):
        remedy = "set it to null, and give fewer rows to each call"
        warnings.warn(f"recipe.rows_at_once is {recipe.rows_at_once}, but loss() ignores it here: {remedy}", stacklevel=2)
    with leave_inference_mode():
        return supervise(energy, geometry, update, start, target, step_size, recipe, generator, backend=backend).loss


def check_target(target: Tensor, start: Tensor, geometry: Geometry) -> None:
    """Raise ``ValueError`` if a target has indices outside the vocabulary (on the CPU: elsewhere the host would wait for the
    device), or does not fit the starting states."""
    if isinstance(geometry, Simplex):
        words = len(geometry.table)
        if target.dtype != torch.long:
            raise ValueError(f"target has dtype {target.dtype}: give vocabulary indices (torch.int64)")
        wrong = (target != IGNORED) & ((target < 0) | (target >= words)) if target.device.type == "cpu" else None
        if wrong is not None and wrong.any():
            found = f"target has the index {target[wrong][0]}"
            raise ValueError(f"{found}: give 0 to {words - 1}, or {IGNORED} for parts without a loss")
    elif not isinstance(geometry, Euclidean):
        return
    wanted = (*target.shape, geometry.width) if isinstance(geometry, Simplex) else tuple(target.shape)
    if tuple(start.shape) != wanted:
        raise ValueError(f"start has shape {tuple(start.shape)}, but the target needs {wanted}: give one that fits the other")


def supervise(
    energy: Energy,
    geometry: Geometry,
    update: Update,
    start: Tensor,
    target: Tensor,
    step_size: StepSize | Tensor | float,
    recipe: Recipe,
    generator: torch.Generator | None = None,
    steps: int | tuple[int, ...] | None = None,
    noise: Draws | None = None,
    backend: str = "auto",
    burn_in: int | None = None,
) -> Supervised:
    """Think according to a recipe and compare the candidates with the target (paper, section 3.2).

    Args:
        energy: See ``descend``.
        geometry: See ``descend``.
        update: See ``descend``.
        start: See ``descend``.
        target: One target per part: vocabulary indices (N, *P) or vectors (N, *P, ...).
        step_size: Step size alpha.
        recipe: Training recipe.
        generator: Source of all random draws.
        steps: Number of steps, or the step index of each step. Default: drawn by the recipe.
        noise: Source of the Langevin noise. Default: independent for each row.
        backend: ``plain`` back-propagates through the whole descent. ``auto`` computes gradients during the descent if the
            landscape is ``Separable`` (``ebt.thinking.fast.adjoint``). ``accumulate`` is for sharded weights: like ``plain``,
            but each step adds the gradients of weights to ``grad`` in backward passes of its own (``Nudge.accumulating``).
        burn_in: Number of steps without gradients before ``steps``. Default: drawn by the recipe.

    Returns:
        The loss, and the record of the descent after the burn-in.

    Raises:
        ValueError: If ``backend`` is ``accumulate`` and gradients of gradients are exact or ``recipe.ranking`` is set, or if
            gradients of gradients are central and the energy gives its own slope.
    """
    schedule = recipe.draw_schedule(generator) if steps is None else tuple(range(steps)) if isinstance(steps, int) else steps
    alpha = draw_step_size(step_size, start.shape[: geometry.prediction_dims], recipe.step_size_spread, generator, start)
    if noise is None and recipe.noise:
        noise = Rows(draw_integer(0, 2**62, generator))
    if before := recipe.draw_burn_in(generator) if burn_in is None else burn_in:
        start = _burn_in(energy, geometry, update, start, alpha.detach(), recipe, before, generator)
        schedule = tuple(before + step for step in schedule)
    own = own_slope(energy) is not None
    if own and recipe.second_order == "central":
        raise ValueError(
            "second_order is 'central', but the energy gives its own slope, which is differentiated once: leave it out"
        )
    if backend == "accumulate" and recipe.ranking:
        raise ValueError(f"ranking is {recipe.ranking}: backend accumulate has no ranking loss, so set it to 0")
    nudge = None if own else Nudge.of(recipe.second_order, recipe.nudge, geometry, start)
    found = _supervise(energy, geometry, update, start, target, alpha, recipe, schedule, noise, nudge, backend)
    if not recipe.ranking:
        return found
    ranking = rank(energy, geometry, found.thought, target, schedule[-1], generator)
    return replace(found, loss=found.loss + recipe.ranking * ranking, ranking=ranking.detach())


def _burn_in(
    energy: Energy,
    geometry: Geometry,
    update: Update,
    start: Tensor,
    alpha: Tensor,
    recipe: Recipe,
    steps: int,
    generator: torch.Generator | None,
) -> Tensor:
    """The states after ``steps`` steps without gradients. Arguments as in ``supervise``."""
    noise = Rows(draw_integer(0, 2**62, generator)) if recipe.noise else None
    how: dict[str, Any] = {"noise": recipe.noise, "clamp": recipe.clamp, "generator": noise, "final_energy": False}
    return descend(energy, start, steps=steps, step_size=alpha, geometry=geometry, update=update, **how).state.detach()


def _supervise(
    energy: Energy,
    geometry: Geometry,
    update: Update,
    start: Tensor,
    target: Tensor,
    alpha: Tensor,
    recipe: Recipe,
    schedule: tuple[int, ...],
    noise: Draws | None,
    nudge: Nudge | None,
    backend: str,
) -> Supervised:
    """The losses of the states of a descent. Arguments as in ``supervise``, with all draws made."""
    if backend == "accumulate" and own_slope(energy) is None:
        energy, nudge = _accumulating(energy, nudge)
    if _by_rows(energy, update, start, backend):
        from ebt.thinking.fast import adjoint

        return adjoint.train(cast(Any, energy), geometry, update, start, target, alpha, recipe, schedule, noise, nudge)
    thought = descend(
        energy,
        start,
        steps=len(schedule),
        step_size=alpha,
        geometry=geometry,
        update=update,
        noise=recipe.noise,
        clamp=recipe.clamp,
        gradients=recipe.gradients,
        generator=noise,
        schedule=schedule,
        final_energy=False,
        nudge=nudge,
        backend="plain",
    )
    losses = torch.stack([mean_loss(geometry, state, target) for state in thought.states])
    return Supervised(losses.mean() if recipe.loss == "every" else losses[-1], losses.detach(), thought)


def _by_rows(energy: Energy, update: Update, start: Tensor, backend: str) -> bool:
    """Whether gradients are computed during the descent, some rows at a time (``ebt.thinking.fast.adjoint``)."""
    if backend != "auto" or not torch.is_grad_enabled() or start.requires_grad or update.begin(start) is not None:
        return False
    from ebt.thinking.fast import adjoint

    return adjoint.separable(energy)


def _accumulating(energy: Energy, nudge: Nudge | None) -> tuple[Energy, Nudge]:
    """The energy cut from all that does not depend on the candidate, and the nudge that accumulates its gradients."""
    from ebt.thinking.fast import adjoint

    if nudge is None:
        raise ValueError("backend accumulate needs central differences: set second_order to central")
    if not adjoint.separable(energy):
        return energy, nudge.accumulating((), ())
    part = cast(Any, energy).separate(slice(None))
    return part.landscape, nudge.accumulating(part.leaves, part.sources)


def mean_loss(geometry: Geometry, state: Tensor, target: Tensor) -> Tensor:
    """Mean loss over the parts that count."""
    loss = geometry.loss(state, target)
    scored = geometry.scored(target).expand_as(loss)
    return (loss * scored).sum() / scored.sum().clamp(min=1)


def draw_step_size(
    step_size: StepSize | Tensor | float, predictions: tuple[int, ...], spread: float, generator: Any, like: Tensor
) -> Tensor:
    """Draw one alpha per prediction, uniform in [alpha / spread, alpha * spread] (paper, table 2). Spread 1 returns alpha."""
    alpha = step_size() if isinstance(step_size, StepSize) else as_tensor("step_size", step_size, like)
    if spread == 1:
        return alpha
    uniform = torch.rand(predictions, generator=generator, device=alpha.device, dtype=alpha.dtype)
    return alpha / spread + uniform * (alpha * spread - alpha / spread)
