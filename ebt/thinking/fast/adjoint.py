"""Gradients computed during the descent, a few rows and one step at a time.

Plain back-propagation keeps the graphs of all steps and rows until ``backward()``. A step depends on its past only through its
state, so the adjoint can go back step by step: ``lambda[i] = (d state[i+1] / d state[i])^T lambda[i+1]`` plus the gradient of
that state's own loss. Each graph is freed after use. Losses also return the next views (``ebt.thinking.fast.vocabulary``). The
result is a scalar with known gradients, which ``backward()`` only distributes.

Memory depends neither on the number of rows or steps nor on the size of the vocabulary. In descents longer than ``SHORT``, only
the last step keeps its graph; earlier steps are recomputed, at the cost of a third more work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebt.thinking.descent import Energy, Gradients, descend, per_prediction
from ebt.thinking.fast.central import Nudge
from ebt.thinking.fast.compact import CompactSimplex
from ebt.thinking.fast.saving import saving_less
from ebt.thinking.fast.vocabulary import Views
from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import Draws, Source
from ebt.thinking.recipe import Recipe, Supervised
from ebt.thinking.thought import Evaluations, Thought
from ebt.thinking.update import Update

SHORT = 4
"""Descents of at most this many steps keep the graphs of all steps."""
RECORDED = 8
"""Descents of at most this many steps record all states; longer ones record the last."""
NUMBERS_AT_ONCE = 3 * 2**16
"""Elements of one activation computed at once on CPUs, so that graphs stay in the processor caches."""


@dataclass(frozen=True)
class Separated:
    """A landscape that depends on new leaf tensors."""

    landscape: Energy
    sources: Sequence[Tensor]
    """The tensors that the leaves replace, which depend on the roots."""
    leaves: Sequence[Tensor]


@runtime_checkable
class Separable(Protocol):
    """A landscape whose gradients can be computed in parts."""

    def __call__(self, candidate: Tensor, step: int, /) -> Tensor: ...

    def roots(self) -> list[Tensor] | None:
        """The input, followed by the weights that the energies depend on. None if it cannot be separated."""
        ...

    def on(self, x: Tensor) -> Separable:
        """The same landscape with another input."""
        ...

    def separate(self, rows: slice) -> Separated:
        """The landscape of some rows, with leaves in place of all that does not depend on the candidate."""
        ...


def separable(energy: Any) -> bool:
    """Whether an energy is ``Separable`` in its current state."""
    return isinstance(energy, Separable) and energy.roots() is not None


class _Sums:
    """Accumulated gradients, one for each tensor that requires them."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())
        self.sums: list[Tensor | None] = [None] * len(self.tensors)

    def place(self, tensor: Tensor) -> Tensor | None:
        """The buffer for gradients of a tensor. None if it does not require them."""
        index = next((i for i, other in enumerate(self.tensors) if other is tensor), None)
        if index is None:
            return None
        if self.sums[index] is None:
            self.sums[index] = torch.zeros_like(tensor, requires_grad=False)
        return self.sums[index]

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        for i, gradient in enumerate(gradients):
            known = self.sums[i]
            if gradient is not None:
                self.sums[i] = gradient if known is None else known.add_(gradient)


class _Known(torch.autograd.Function):
    """A scalar with known gradients."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: Tensor, gradients: list[Tensor | None], *tensors: Tensor) -> Tensor:
        ctx.factor, ctx.gradients = factor, gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss were handed out: compute the loss again before another backward()")
        gradients, ctx.gradients = ctx.gradients, None
        slope = slope * ctx.factor.to(slope.dtype)
        return None, None, None, *(None if known is None else known.mul_(slope) for known in gradients)


def train(
    landscape: Separable,
    geometry: Geometry,
    update: Update,
    start: Tensor,
    target: Tensor,
    alpha: Tensor,
    recipe: Recipe,
    schedule: tuple[int, ...],
    noise: Draws | None,
    nudge: Nudge | None = None,
) -> Supervised:
    """Think and compute the gradients of the mean loss. They equal those of plain back-propagation.

    Args:
        landscape: Energy, see ``supervise``.
        geometry: See ``supervise``.
        update: See ``supervise``.
        start: See ``supervise``.
        target: See ``supervise``.
        alpha: Step size, a scalar or one value per prediction.
        recipe: Training recipe. ``rows_at_once`` sets the number of rows computed at once. Default: on CPUs, groups of equal
            size with about ``NUMBERS_AT_ONCE`` elements per activation; elsewhere, all rows.
        schedule: Step index of each step.
        noise: Source of the Langevin noise.
        nudge: See ``descend``.
    """
    step_size = alpha.detach().requires_grad_(alpha.requires_grad)
    x, *weights = landscape.roots() or [start]
    leaf = x.detach().requires_grad_(x.requires_grad)  # else weights behind x would count twice
    landscape, every = landscape.on(leaf), recipe.loss == "every"
    sums = _Sums((leaf, *weights, *geometry.weights(), step_size))
    size = recipe.rows_at_once or rows_together(len(start), start.shape[1:-1].numel() * x.shape[-1], start.device.type)
    batch = _Batch(landscape, geometry, update, target, step_size, recipe, schedule, noise, nudge, sums)
    with saving_less(nudge is not None):
        groups = [_Rows(batch, slice(first, first + size)).run(start) for first in range(0, len(start), size)]
    count = torch.stack([group.count for group in groups]).sum().clamp(min=1)
    losses = torch.stack([torch.stack(group.losses) for group in groups]).sum(0) / count
    behind = {id(step_size): alpha, id(leaf): x}
    tensors = [behind.get(id(tensor), tensor) for tensor in sums.tensors]
    factor = 1 / (count.float() if count.device.type == "mps" else count.double()) / (len(schedule) if every else 1)
    loss: Tensor = _Known.apply(losses.mean() if every else losses[-1], factor, sums.sums, *tensors)
    thought = Thought(
        geometry=geometry,
        update=update,
        start=start,
        states=tuple(torch.cat(states) for states in zip(*(group.states for group in groups), strict=True)),
        energies=torch.cat([torch.cat(group.energies) for group in groups], 1),
        steps=torch.full(start.shape[: geometry.prediction_dims], len(schedule), device=start.device),
        step_size=per_prediction("step_size", alpha.detach(), start),
        evaluations=Evaluations(forward=len(schedule), backward=len(schedule)),
    )
    return Supervised(loss, losses, thought)


def rows_together(rows: int, numbers: int, device: str) -> int:
    """Default number of rows computed at once, in groups of equal size, if an activation of a row has ``numbers`` elements."""
    if device != "cpu":
        return rows
    return max(1, -(-rows // max(1, round(rows * numbers / NUMBERS_AT_ONCE))))


@dataclass(frozen=True)
class _Batch:
    """State shared by all groups of rows."""

    landscape: Separable
    geometry: Geometry
    update: Update
    target: Tensor
    step_size: Tensor
    recipe: Recipe
    schedule: tuple[int, ...]
    noise: Draws | None
    nudge: Nudge | None
    sums: _Sums

    @property
    def steps(self) -> int:
        return len(self.schedule)

    def counts(self, index: int) -> bool:
        """Whether a step has a loss."""
        return self.recipe.loss == "every" or index == self.steps - 1


class _Seen:
    """A geometry with a precomputed view of one state."""

    def __init__(self, geometry: Any, view: Views | None) -> None:
        self.geometry, self.known = geometry, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self.geometry, name)

    def look(self, state: Tensor, std: Tensor | None, draw: Source) -> tuple[Tensor, Tensor]:
        return state, self.geometry.attach(state, self.known)


class _Rows:
    """The descent of a group of rows, with its gradients."""

    def __init__(self, batch: _Batch, rows: slice) -> None:
        with torch.enable_grad(), saving_less(batch.nudge is not None, waits=True):
            self.part = batch.landscape.separate(rows)
        self.batch, self.rows, self.target = batch, rows, batch.target[rows]
        self.noise = None if batch.noise is None else batch.noise.of(rows)
        self.sums, self.leaves = batch.sums, _Sums(self.part.leaves)
        known = (*self.sums.tensors, *self.leaves.tensors)
        self.nudge = None if batch.nudge is None else replace(batch.nudge, learning=known, take=self._take)
        self.states, self.energies = list[Tensor](), list[Tensor]()
        self.losses: list[Tensor] = []
        self.count = torch.zeros(())

    def run(self, start: Tensor) -> _Rows:
        """Descend and accumulate all gradients."""
        ways = {"detached": self._detached, "truncated": self._truncated, "full": self._full}
        ways[self.batch.recipe.gradients](start[self.rows])
        source_of = {id(leaf): source for leaf, source in zip(self.part.leaves, self.part.sources, strict=True)}
        slopes = zip(self.leaves.tensors, self.leaves.sums, strict=True)
        self._differentiate([(source_of[id(leaf)], slope) for leaf, slope in slopes])
        return self

    def _take(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the gradients of a pass at a nudged candidate."""
        first = len(self.sums.tensors)
        self.sums.add(gradients[:first])
        self.leaves.add(gradients[first:])

    def _detached(self, state: Tensor) -> None:
        view = None
        for index in range(self.batch.steps):
            gradients: Gradients = "detached" if self.batch.counts(index) else "none"
            after = self._step(state, index, gradients, view)
            slope, view = self._assess(index, after)
            self._differentiate([(after, slope)])
            state = after.detach()

    def _truncated(self, state: Tensor) -> None:
        """Only the last step keeps the graph of the landscape."""
        states = self._think(state, 0, self.batch.schedule, "truncated", None).states
        self._differentiate([(after, self._assess(index, after)[0]) for index, after in enumerate(states)])

    def _full(self, state: Tensor) -> None:
        """Forward, keeping the graph of the last step (of all steps if few); then backward, recomputing the others."""
        past, view, steps = list[_Step](), None, self.batch.steps
        for index in range(steps):
            kept = steps <= SHORT or index == steps - 1
            before = state.detach().requires_grad_()
            after = self._step(before, index, "full" if kept else "none", view)
            slope, view = self._assess(index, after)
            past.append(_Step(index, before, after if kept else None, slope))
            state = after.detach()
        adjoint: Tensor | None = None
        while past:
            adjoint = self._back(past.pop(), adjoint)

    def _back(self, step: _Step, adjoint: Tensor | None) -> Tensor | None:
        """Map the adjoint of the state after a step to that of the state before it."""
        after = self._step(step.before, step.index, "full", None, note=False) if step.after is None else step.after
        if step.slope is not None:
            adjoint = step.slope if adjoint is None else adjoint + step.slope
        return self._differentiate([(after, adjoint)], step.before)

    def _step(self, state: Tensor, index: int, gradients: Gradients, view: Views | None, note: bool = True) -> Tensor:
        return self._think(state, index, (self.batch.schedule[index],), gradients, view, note).state

    def _think(
        self, state: Tensor, index: int, schedule: tuple[int, ...], gradients: Gradients, view: Views | None, note: bool = True
    ) -> Thought:
        """Continue the descent. ``view`` is the view of the state if known; with noise it is not used."""
        alpha, batch = self.batch.step_size, self.batch
        known = view is not None and self.noise is None
        geometry: Any = _Seen(batch.geometry, view) if known else batch.geometry
        thought = descend(
            self.part.landscape,
            state,
            steps=len(schedule),
            step_size=alpha[self.rows] if alpha.dim() else alpha,
            geometry=geometry,
            update=batch.update,
            noise=batch.recipe.noise,
            clamp=batch.recipe.clamp,
            gradients=gradients,
            generator=self.noise,
            schedule=schedule,
            first=index,
            final_energy=False,
            nudge=self.nudge,
        )
        if note:
            self.energies.append(thought.energies)
            self.states += [after.detach() for after in thought.states]
            self.states = self.states if batch.steps <= RECORDED else self.states[-1:]
        return thought

    def _assess(self, index: int, state: Tensor) -> tuple[Tensor | None, Views | None]:
        """Record the losses of a state; return their gradient if they count, and the view if it is a by-product."""
        geometry, counts, target = self.batch.geometry, self.batch.counts(index), self.target
        scored, view, slope = geometry.scored(target), None, None
        if not counts:
            with torch.no_grad():
                losses = geometry.loss(state.detach(), target)
        else:
            into = [self.sums.place(table) for table in geometry.weights()]
            weight = scored.to(state.dtype)
            if isinstance(geometry, CompactSimplex):
                losses, slope, view = geometry.assess(state, target, weight, into[0])
            else:
                losses, slope = _assess(geometry, state, target, weight, into)
        scored = scored.expand_as(losses)
        self.losses.append((losses * scored).sum())
        self.count = scored.sum()
        return slope, view

    def _differentiate(self, pairs: Iterable[tuple[Tensor, Tensor | None]], before: Tensor | None = None) -> Tensor | None:
        """Back-propagate (output, gradient) pairs into the sums; return the gradient with respect to ``before``."""
        useful = [(output, slope) for output, slope in pairs if slope is not None and output.requires_grad]
        inputs = [*self.sums.tensors, *self.leaves.tensors, *([] if before is None else [before])]
        if not useful or not inputs:
            return None
        gradients = torch.autograd.grad(
            [output for output, _ in useful], inputs, [slope.to(output.dtype) for output, slope in useful], allow_unused=True
        )
        first, second = len(self.sums.tensors), len(self.sums.tensors) + len(self.leaves.tensors)
        self.sums.add(gradients[:first])
        self.leaves.add(gradients[first:second])
        return None if before is None else gradients[second]


@dataclass(frozen=True)
class _Step:
    """One step of a descent, kept for the backward pass."""

    index: int
    before: Tensor
    after: Tensor | None
    """State after the step with its graph. None if the graph was not kept."""
    slope: Tensor | None


def _assess(
    geometry: Geometry, state: Tensor, target: Tensor, weight: Tensor, into: list[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Detached losses of states, and the gradient of their weighted sum. Gradients of weights are added to ``into``."""
    with torch.enable_grad():
        leaf = state.detach().requires_grad_()
        losses = geometry.loss(leaf, target)
        learning = [(table, place) for table, place in zip(geometry.weights(), into, strict=True) if place is not None]
        inputs = [leaf, *(table for table, _ in learning)]
        slope, *gradients = torch.autograd.grad((losses * weight).sum(), inputs, allow_unused=True)
    for (_, place), gradient in zip(learning, gradients, strict=True):
        if gradient is not None:
            place.add_(gradient)
    return losses.detach(), slope
