"""Gradients of a whole batch, taken while it thinks: a few rows at a time, one step after the other.

Plain back-propagation keeps the graphs of all steps of all rows until ``backward()``. But a step of thinking needs little of
its past, its state alone; so the adjoint goes back step by step: ``lambda[i] = (d state[i+1] / d state[i])^T lambda[i+1]``
plus the slope of that state's own loss, and each graph is dropped when it has been used. The losses of states hand over the
next views (see ``ebt.thinking.fast.vocabulary``). What is left in the end is one number and its gradients, which ``backward()``
hands out.

Memory then depends neither on the number of rows nor on that of steps, nor on the size of a vocabulary. Of descents longer than
``SHORT`` only the last step keeps the graph of its first run; earlier ones run again when their turn comes, a third of their
work on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebt.thinking.descent import Energy, Gradients, descend, per_prediction
from ebt.thinking.fast.central import Nudge
from ebt.thinking.fast.compact import CompactSimplex
from ebt.thinking.geometry import Geometry
from ebt.thinking.noise import Draws, Source
from ebt.thinking.recipe import Recipe, Supervised
from ebt.thinking.thought import Evaluations, Thought
from ebt.thinking.update import Update

SHORT = 4
"""Descents of no more steps keep the graphs of all of them."""
RECORDED = 8
"""Steps whose states are recorded; of longer descents the last state alone."""
NUMBERS_AT_ONCE = 3 * 2**16
"""On CPUs, numbers of one activation that exist at once: graphs of a few rows then stay in the processor's caches."""


@dataclass(frozen=True)
class Separated:
    """A landscape on leaves of its own."""

    landscape: Energy
    sources: Sequence[Tensor]
    """What the leaves stand for: tensors that depend on the roots."""
    leaves: Sequence[Tensor]


@runtime_checkable
class Separable(Protocol):
    """A landscape that can be taken apart, so that its gradients can be taken in parts."""

    def __call__(self, candidate: Tensor, step: int, /) -> Tensor: ...

    def roots(self) -> list[Tensor] | None:
        """What it was made from, and the weights that its energies depend on; None: it cannot be separated."""
        ...

    def on(self, x: Tensor) -> Separable:
        """The same landscape, made from another tensor."""
        ...

    def separate(self, rows: slice) -> Separated:
        """The landscape of some rows, behind leaves in the place of what does not depend on the candidate."""
        ...


def separable(energy: Any) -> bool:
    """Whether an energy can be taken apart, here and now."""
    return isinstance(energy, Separable) and energy.roots() is not None


class _Sums:
    """Sums of gradients, one for each tensor that learns."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list({id(tensor): tensor for tensor in tensors if tensor.requires_grad}.values())
        self.sums: list[Tensor | None] = [None] * len(self.tensors)

    def place(self, tensor: Tensor) -> Tensor | None:
        """Where to add gradients with respect to a tensor; None if it does not learn."""
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
    """A number whose gradients are known."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, factor: float, gradients: list[Tensor | None], *tensors: Tensor) -> Tensor:
        ctx.factor, ctx.gradients = factor, gradients
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss have been handed out: compute the loss again for another backward()")
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, *(None if known is None else known.mul_(slope * ctx.factor) for known in gradients)


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
    """Think, and take the gradients of the mean loss on the way; equal to those of plain back-propagation.

    Args:
        landscape: the energy, as for ``supervise``.
        geometry: as for ``supervise``.
        update: as for ``supervise``.
        start: as for ``supervise``.
        target: as for ``supervise``.
        alpha: the step size, one or one per prediction.
        recipe: how to think. By default, groups of equal size with about ``NUMBERS_AT_ONCE`` numbers in an activation have
            their graphs at once on CPUs, else all rows; ``rows_at_once`` says otherwise.
        schedule: the step index of each step.
        noise: what draws the Langevin noise.
        nudge: as for ``descend``.
    """
    step_size = alpha.detach().requires_grad_(alpha.requires_grad)
    x, *weights = landscape.roots() or [start]
    leaf = x.detach().requires_grad_(x.requires_grad)  # what is behind it may be among the weights, and would count twice
    landscape, every = landscape.on(leaf), recipe.loss == "every"
    sums = _Sums((leaf, *weights, *geometry.weights(), step_size))
    size = recipe.rows_at_once or rows_together(len(start), start.shape[1:-1].numel() * x.shape[-1], start.device.type)
    batch = _Batch(landscape, geometry, update, target, step_size, recipe, schedule, noise, nudge, sums)
    groups = [_Rows(batch, slice(first, first + size)).run(start) for first in range(0, len(start), size)]
    count = max(1, sum(group.count for group in groups))
    losses = torch.stack([torch.stack(group.losses) for group in groups]).sum(0) / count
    behind = {id(step_size): alpha, id(leaf): x}
    tensors = [behind.get(id(tensor), tensor) for tensor in sums.tensors]
    factor = 1 / count / (len(schedule) if every else 1)
    loss: Tensor = _Known.apply(losses.mean() if every else losses[-1], factor, sums.sums, *tensors)
    thought = Thought(
        geometry=geometry,
        update=update,
        start=start,
        states=tuple(torch.cat(states) for states in zip(*(group.states for group in groups), strict=True)),
        energies=torch.cat([torch.cat(group.energies) for group in groups], 1),
        steps=torch.full(start.shape[: geometry.prediction_dims], len(schedule), device=start.device),
        step_size=per_prediction(alpha.detach(), start),
        evaluations=Evaluations(forward=len(schedule), backward=len(schedule)),
    )
    return Supervised(loss, losses, thought)


def rows_together(rows: int, numbers: int, device: str) -> int:
    """Rows whose graphs exist at once, by default: groups of equal size, where an activation of one row has ``numbers``."""
    if device != "cpu":
        return rows
    return max(1, -(-rows // max(1, round(rows * numbers / NUMBERS_AT_ONCE))))


@dataclass(frozen=True)
class _Batch:
    """What all groups of rows share."""

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
        """Whether the loss after a step counts."""
        return self.recipe.loss == "every" or index == self.steps - 1


class _Seen:
    """A geometry of which one state's view is known."""

    def __init__(self, geometry: Any, view: Tensor | None) -> None:
        self.geometry, self.known = geometry, view

    def __getattr__(self, name: str) -> Any:
        return getattr(self.geometry, name)

    def look(self, state: Tensor, std: Tensor, draw: Source) -> tuple[Tensor, Tensor]:
        return state, self.geometry.attach(state, self.known)


class _Rows:
    """The descent of a group of rows, with its gradients."""

    def __init__(self, batch: _Batch, rows: slice) -> None:
        with torch.enable_grad():
            self.part = batch.landscape.separate(rows)
        self.batch, self.rows, self.target = batch, rows, batch.target[rows]
        self.noise = None if batch.noise is None else batch.noise.of(rows)
        self.sums, self.leaves = batch.sums, _Sums(self.part.leaves)
        self.states, self.energies = list[Tensor](), list[Tensor]()
        self.losses: list[Tensor] = []
        self.count = 0

    def run(self, start: Tensor) -> _Rows:
        """Descend, and add up all gradients."""
        ways = {"detached": self._detached, "truncated": self._truncated, "full": self._full}
        ways[self.batch.recipe.gradients](start[self.rows])
        source_of = {id(leaf): source for leaf, source in zip(self.part.leaves, self.part.sources, strict=True)}
        slopes = zip(self.leaves.tensors, self.leaves.sums, strict=True)
        self._differentiate([(source_of[id(leaf)], slope) for leaf, slope in slopes])
        return self

    def _detached(self, state: Tensor) -> None:
        view = None
        for index in range(self.batch.steps):
            gradients: Gradients = "detached" if self.batch.counts(index) else "none"
            after = self._step(state, index, gradients, view)
            slope, view = self._assess(index, after)
            self._differentiate([(after, slope)])
            state = after.detach()

    def _truncated(self, state: Tensor) -> None:
        """The last step alone has the graph of the landscape: the others are moves."""
        states = self._think(state, 0, self.batch.schedule, "truncated", None).states
        self._differentiate([(after, self._assess(index, after)[0]) for index, after in enumerate(states)])

    def _full(self, state: Tensor) -> None:
        """Forwards, keeping the graph of the last step, or of all if they are few; backwards, running the others again."""
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
        """From the adjoint of the state after a step to that of the state before it."""
        after = self._step(step.before, step.index, "full", None, note=False) if step.after is None else step.after
        if step.slope is not None:
            adjoint = step.slope if adjoint is None else adjoint + step.slope
        return self._differentiate([(after, adjoint)], step.before)

    def _step(self, state: Tensor, index: int, gradients: Gradients, view: Tensor | None, note: bool = True) -> Tensor:
        return self._think(state, index, (self.batch.schedule[index],), gradients, view, note).state

    def _think(
        self,
        state: Tensor,
        index: int,
        schedule: tuple[int, ...],
        gradients: Gradients,
        view: Tensor | None,
        note: bool = True,
    ) -> Thought:
        """Think on; ``view`` is what the network sees of the state, where that is known; noise makes it useless."""
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
            nudge=batch.nudge,
        )
        if note:
            self.energies.append(thought.energies)
            self.states += [after.detach() for after in thought.states]
            self.states = self.states if batch.steps <= RECORDED else self.states[-1:]
        return thought

    def _assess(self, index: int, state: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The slope of a state's losses, if they count, and its view, if it comes with them; the losses are noted."""
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
        self.count = int(scored.sum())
        return slope, view

    def _differentiate(self, pairs: Iterable[tuple[Tensor, Tensor | None]], before: Tensor | None = None) -> Tensor | None:
        """Add the gradients of tensors with these slopes; returns the one with respect to the state before."""
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
    """One step of a descent, to be gone back."""

    index: int
    before: Tensor
    after: Tensor | None
    """With its graph, where that was kept."""
    slope: Tensor | None


def _assess(
    geometry: Geometry, state: Tensor, target: Tensor, weight: Tensor, into: list[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Losses of states as constants, and the slope of their weighted sum; gradients of weights are added to ``into``."""
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
