"""Recipes: how a descent is trained (paper, section 3.2), and the loss of one batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn

from ebt.thinking.descent import Energy, Gradients, check, descend
from ebt.thinking.fast.central import Nudge
from ebt.thinking.fast.draws import Rows, draw_integer
from ebt.thinking.geometry import Euclidean, Geometry
from ebt.thinking.noise import Draws, precise
from ebt.thinking.thought import Thought
from ebt.thinking.update import Gradient, Update


class StepSize(nn.Module):
    """``alpha = initial * exp(log_scale)``: it stays positive, and learns at one rate whatever its start.

    It keeps float32 where a model is turned into 16 bits, which would round its updates away.

    Raises:
        ValueError: ``initial`` is not positive.
    """

    def __init__(self, initial: float, learnable: bool = True) -> None:
        super().__init__()
        if not initial > 0:
            raise ValueError(f"step size is {initial}: give a positive number")
        self.initial = initial
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=learnable)

    def forward(self) -> Tensor:
        return self.initial * precise(self.log_scale).exp()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What ``to`` and its like do to all parameters."""

        def convert(tensor: Tensor) -> Tensor:
            changed = fn(tensor)
            rounded = changed.is_floating_point() and changed.dtype.itemsize < 4
            return tensor.to(changed.device, torch.float32) if rounded else changed

        return super()._apply(convert, recurse)


@dataclass(frozen=True)
class Recipe:
    """How candidates are thought during training.

    The defaults are plain: gradients through the whole descent and a loss at every step. ``Recipe.warm()`` is the library's own
    recipe for language, ``Recipe.s1()`` and ``Recipe.s2()`` are the paper's. Contradictions raise ``ValueError``.
    """

    min_steps: int = 2
    max_steps: int = 3
    """The number of steps is drawn per batch, both ends included."""
    landscapes: int | None = None
    """For conditioned networks, step indices of which each one gets its own number of steps, as in the published code; None:
    every step has its own index."""
    repeated: Literal["all", "last"] = "all"
    """Whether every landscape is stepped on repeatedly, or the last only."""
    gradients: Gradients = "full"
    loss: Literal["every", "last"] = "every"
    step_size_spread: float = 1.0
    """alpha is drawn per prediction from [alpha / spread, alpha * spread]."""
    noise: float = 0.0
    """Standard deviation of the Langevin noise."""
    start_std: float = 1.0
    """Standard deviation of the starting candidates (of the logits, on a vocabulary)."""
    clamp: float | None = None
    replay_size: int = 0
    """Records in the replay buffer; 0 is none."""
    replay_fraction: float = 0.0
    """Replayed rows, appended to a batch, as a fraction of it."""
    warm_start: float = 0.0
    """The share of training, from its beginning, in which the network does not see its candidates. One step is then a pass of
    the feed-forward twin, at the twin's price (autoregressive: two passes, one of them for the context); heads that are no
    product with the candidate cannot learn by it."""
    second_order: Literal["auto", "exact", "central"] = "auto"
    """How gradients of gradients are taken: exactly, by double backward, or by central differences of first derivatives
    (``ebt.thinking.fast.central``). auto: exact on CPUs, central elsewhere."""
    nudge: float | None = None
    """Size of central differences, as a share of a candidate's norm; by default what suits the precision."""
    rows_at_once: int | None = None
    """Rows whose gradients are computed at once: fewer need less memory. By default a few on CPUs, else all of a batch."""

    def __post_init__(self) -> None:
        steps, replay = (self.min_steps, self.max_steps), (self.replay_size, self.replay_fraction)
        rules = {
            "landscapes": (self.landscapes is None or self.landscapes >= 1, "at least 1, or null for an index for every step"),
            "repeated": (self.repeated in ("all", "last"), "choose all or last"),
            "gradients": (self.gradients != "none", "training needs detached, truncated or full"),
            "loss": (self.loss in ("every", "last"), "choose every or last"),
            "step_size_spread": (self.step_size_spread >= 1, "give a factor >= 1 (1: no randomness)"),
            "start_std": (self.start_std >= 0, "a standard deviation cannot be negative"),
            "warm_start": (0 <= self.warm_start < 1, "give a share of the training, at least 0 and below 1"),
            "second_order": (self.second_order in ("auto", "exact", "central"), "choose auto, exact or central"),
            "nudge": (self.nudge is None or 0 < self.nudge < 1, "give a share above 0 and below 1, or null for the default"),
            "rows_at_once": (self.rows_at_once is None or self.rows_at_once >= 1, "at least 1, or null for the default"),
        }
        for name, (right, remedy) in rules.items():
            if not right:
                raise ValueError(f"{name} is {getattr(self, name)!r}: {remedy}")
        if self.nudge is not None and self.second_order == "exact":
            raise ValueError("nudge is for central differences: set second_order to central or auto, or leave it out")
        if not 1 <= steps[0] <= steps[1]:
            raise ValueError("min_steps {} and max_steps {}: need 1 <= min_steps <= max_steps".format(*steps))
        if (replay[0] > 0) != (replay[1] > 0) or replay[0] < 0 or not 0 <= replay[1] <= 1:
            remedy = "set both (fraction in (0, 1]) or neither"
            raise ValueError("replay_size {} with replay_fraction {}: {}".format(*replay, remedy))
        if self.gradients == "detached" and (self.noise > 0 or self.replay_size > 0 or self.step_size_spread > 1):
            raise ValueError(
                "gradients: detached is the S1 recipe, which has no noise, replay buffer or random step size: "
                "drop them, or set gradients to truncated (S2) or full"
            )
        check(1, self.noise, self.clamp, self.gradients)

    @classmethod
    def s1(cls, steps: int = 2, **overrides: Any) -> Recipe:
        """The paper's System 1 recipe (section 3.2): a fixed number of steps, detached, loss at every step, no regularisers."""
        return cls(**{"min_steps": steps, "max_steps": steps, "gradients": "detached", **overrides})

    @classmethod
    def s2(cls, **overrides: Any) -> Recipe:
        """The paper's System 2 recipe (section 3.3, table 2): random steps and step sizes, Langevin noise, replay buffer, loss
        at the last step."""
        regularised = {"step_size_spread": 2.0, "noise": 0.1, "replay_size": 1000, "replay_fraction": 0.25}
        return cls(**{"gradients": "truncated", "loss": "last", **regularised, **overrides})

    @classmethod
    def warm(cls, **overrides: Any) -> Recipe:
        """The library's own recipe for language: half of training as the feed-forward twin, then a random number of steps, a
        loss and a gradient at the last of them."""
        settings = {"min_steps": 1, "max_steps": 3, "gradients": "truncated", "loss": "last", "warm_start": 0.5}
        return cls(**{**settings, **overrides})

    @property
    def told_steps(self) -> int:
        """How many step indices a conditioned network is told."""
        return self.max_steps if self.landscapes is None else self.landscapes

    @property
    def own_steps(self) -> int:
        """The number of steps of evaluations: the largest; of several landscapes only the last is stepped on repeatedly."""
        return self.max_steps if self.landscapes is None else self.landscapes - 1 + self.max_steps

    @property
    def mean_steps(self) -> float:
        """Steps of a training batch on average, over all landscapes."""
        mean = (self.min_steps + self.max_steps) / 2
        if self.landscapes is None:
            return mean
        return self.landscapes * mean if self.repeated == "all" else self.landscapes - 1 + mean

    def draw_schedule(self, generator: torch.Generator | None = None) -> tuple[int, ...]:
        """The steps of one batch, each with the index that the network is told."""

        def count() -> int:
            return draw_integer(self.min_steps, self.max_steps + 1, generator)

        if self.landscapes is None:
            return tuple(range(count()))
        last = self.landscapes - 1
        repeats = [count() if self.repeated == "all" or i == last else 1 for i in range(self.landscapes)]
        return tuple(i for i, number in enumerate(repeats) for _ in range(number))


@dataclass(frozen=True)
class Supervised:
    """The outcome of one training batch."""

    loss: Tensor
    """What to back-propagate: the mean over the steps that count."""
    losses: Tensor
    """Mean loss after each step, (T,), constants."""
    thought: Thought


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
    """The loss of one batch by a recipe (paper, section 3.2); the energy itself is never supervised.

    Args:
        energy: see ``descend``.
        target: what the candidates should become: vectors (N, *P, K), or words (N, *P) with a ``geometry`` of a vocabulary.
        recipe: how candidates are thought; ``Recipe()`` by default. What a training loop does, ``replay_size`` and
            ``warm_start``, is the caller's: a ``UserWarning`` says so.
        start: where they start, such as states of a ``ReplayBuffer``; normal draws with ``recipe.start_std``, by default.
        step_size: alpha, a learning ``StepSize`` or a number.
        geometry: see ``descend``.
        update: see ``descend``.
        generator: of every random draw.
        backend: see ``supervise``.

    Returns:
        a scalar to back-propagate.

    Raises:
        ValueError: words without a geometry of theirs.
    """
    recipe = Recipe() if recipe is None else recipe
    if geometry is None:
        if not target.is_floating_point():
            raise ValueError(f"target has dtype {target.dtype}: give its vocabulary's geometry, such as Simplex(1, table)")
        geometry = Euclidean(max(1, target.dim() - 1), tuple(target.shape[-1:]), like=target)
    if recipe.replay_size and start is None:
        remedy = "pass states of an ebt.ReplayBuffer as start, or set replay_size and replay_fraction to 0"
        warnings.warn(f"recipe.replay_size is {recipe.replay_size}, and loss() keeps no replay buffer: {remedy}", stacklevel=2)
    if recipe.warm_start:
        remedy = "set it to 0, and pass landscape.unseen() for as long as you want"
        warnings.warn(f"recipe.warm_start is {recipe.warm_start}, and loss() sees no training: {remedy}", stacklevel=2)
    if start is None:
        parts = target.shape[: -len(geometry.shape) or None] if isinstance(geometry, Euclidean) else target.shape
        start = geometry.start(tuple(parts), recipe.start_std, generator)
    update = Gradient() if update is None else update
    return supervise(energy, geometry, update, start, target, step_size, recipe, generator, backend=backend).loss


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
) -> Supervised:
    """Think by a recipe and compare the candidates with the target (paper, section 3.2).

    Args:
        energy: as for ``descend``, and so are ``geometry``, ``update`` and ``start``.
        geometry: as for ``descend``.
        update: as for ``descend``.
        start: as for ``descend``.
        target: one target per part, (N, *P) words or (N, *P, ...) vectors.
        step_size: alpha.
        recipe: the training recipe.
        generator: of every random draw.
        steps: their number, or the step index of each of them, if the recipe shall not draw them.
        noise: what draws the Langevin noise; each row its own, by default.
        backend: ``plain`` back-propagates through the whole descent; ``auto`` takes the gradients of what can be taken apart on
            the way (``ebt.thinking.fast.adjoint``).
    """
    schedule = recipe.draw_schedule(generator) if steps is None else tuple(range(steps)) if isinstance(steps, int) else steps
    alpha = draw_step_size(step_size, start.shape[: geometry.prediction_dims], recipe.step_size_spread, generator, start)
    if noise is None and recipe.noise:
        noise = Rows(draw_integer(0, 2**62, generator))
    nudge = Nudge.of(recipe.second_order, recipe.nudge, geometry, start)
    if backend == "auto" and torch.is_grad_enabled() and not start.requires_grad and update.begin(start) is None:
        from ebt.thinking.fast import adjoint

        if adjoint.separable(energy):
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


def mean_loss(geometry: Geometry, state: Tensor, target: Tensor) -> Tensor:
    """Mean loss over the parts that are scored."""
    loss = geometry.loss(state, target)
    scored = geometry.scored(target).expand_as(loss)
    return (loss * scored).sum() / scored.sum().clamp(min=1)


def draw_step_size(
    step_size: StepSize | Tensor | float, predictions: tuple[int, ...], spread: float, generator: Any, like: Tensor
) -> Tensor:
    """One alpha per prediction, uniform in [alpha / spread, alpha * spread] (paper, table 2); 1 gives alpha itself."""
    alpha = step_size() if isinstance(step_size, StepSize) else torch.as_tensor(step_size, dtype=like.dtype, device=like.device)
    if spread == 1:
        return alpha
    uniform = torch.rand(predictions, generator=generator, device=alpha.device, dtype=alpha.dtype)
    return alpha / spread + uniform * (alpha * spread - alpha / spread)
