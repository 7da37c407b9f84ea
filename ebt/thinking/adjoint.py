"""Gradients of a whole batch, taken while it thinks: a few rows at a time, one step after the other.

Plain back-propagation keeps the graphs of all steps of all rows until ``backward()``. But a step of thinking needs little of
its past, its state alone; so the adjoint goes back step by step: ``lambda[i] = (d state[i+1] / d state[i])^T lambda[i+1]``
plus the slope of that state's own loss, and each graph is dropped when it has been used. The losses of states hand over the
next views (see ``ebt.thinking.vocabulary``). What is left in the end is one number and its gradients, which ``backward()``
hands out.

Memory then depends neither on the number of rows nor on that of steps, nor on the size of a vocabulary. Of descents longer than
``SHORT`` only the last step keeps the graph of its first run; earlier ones run again when their turn comes, a third of their
work on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ebt.thinking.descent import Descent, Gradients, Landscape, per_prediction, think
from ebt.thinking.record import Evaluations, Thought
from ebt.thinking.spaces import CandidateSpace

SHORT = 4
"""Descents of no more steps keep the graphs of all of them."""
RECORDED = 8
"""Steps whose states are recorded; of longer descents the last state alone."""
NUMBERS_AT_ONCE = 3 * 2**16
"""On CPUs, numbers of one activation that exist at once: graphs of a few rows then stay in the processor's caches."""


@dataclass(frozen=True)
class Separated:
    """A landscape on leaves of its own."""

    landscape: Landscape
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


@dataclass(frozen=True)
class Trained:
    """What a batch gave."""

    loss: Tensor
    """Its ``backward()`` hands out gradients that are there already, once."""
    losses: Tensor
    """Mean loss after each step, (T,), constants."""
    thought: Thought


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
    space: CandidateSpace,
    start: Tensor,
    target: Tensor,
    alpha: Tensor,
    descent: Descent,
    every: bool,
    generator: torch.Generator | None = None,
    rows_at_once: int | None = None,
) -> Trained:
    """Think, and take the gradients of the mean loss on the way; equal to those of plain back-propagation.

    Args:
        landscape, space, start, generator: as for ``think``.
        target: as for ``supervise``.
        alpha: the step size, one or one per prediction.
        descent: how to think, with gradients.
        every: the mean of the losses after all steps, or the last one's.
        rows_at_once: rows whose graphs exist at once; by default, on CPUs, groups of equal size with about
            ``NUMBERS_AT_ONCE`` numbers in an activation, else all. With Langevin noise, other groups draw other noise.
    """
    step_size = alpha.detach().requires_grad_(alpha.requires_grad)
    x, *weights = landscape.roots() or [start]
    leaf = x.detach().requires_grad_(x.requires_grad)  # what is behind it may be among the weights, and would count twice
    landscape = landscape.on(leaf)
    sums = _Sums((leaf, *weights, *space.weights(), step_size))
    if generator is None and torch.as_tensor(descent.noise).any():  # one whose state can be told
        generator = torch.Generator(start.device).manual_seed(int(torch.randint(2**62, ())))
    size = rows_at_once or rows_together(len(start), start.shape[1:-1].numel() * x.shape[-1], start.device.type)
    groups = [
        _Rows(landscape, space, slice(first, first + size), target, step_size, descent, every, generator, sums).run(start)
        for first in range(0, len(start), size)
    ]
    count = max(1, sum(group.count for group in groups))
    losses = torch.stack([torch.stack(group.losses) for group in groups]).sum(0) / count
    behind = {id(step_size): alpha, id(leaf): x}
    tensors = [behind.get(id(tensor), tensor) for tensor in sums.tensors]
    factor = 1 / count / (descent.steps if every else 1)
    loss: Tensor = _Known.apply(losses.mean() if every else losses[-1], factor, sums.sums, *tensors)
    thought = Thought(
        start=start,
        states=tuple(torch.cat(states) for states in zip(*(group.states for group in groups), strict=True)),
        energies=torch.cat([torch.cat(group.energies) for group in groups], 1),
        steps=torch.full(start.shape[: space.prediction_dims], descent.steps, device=start.device),
        step_size=per_prediction(alpha.detach(), start),
        evaluations=Evaluations(forward=descent.steps, backward=descent.steps),
    )
    return Trained(loss, losses, thought)


def rows_together(rows: int, numbers: int, device: str) -> int:
    """Rows whose graphs exist at once, by default: groups of equal size, where an activation of one row has ``numbers``."""
    if device != "cpu":
        return rows
    return max(1, -(-rows // max(1, round(rows * numbers / NUMBERS_AT_ONCE))))


class _Rows:
    """The descent of a group of rows, with its gradients."""

    def __init__(
        self,
        landscape: Separable,
        space: CandidateSpace,
        rows: slice,
        target: Tensor,
        step_size: Tensor,
        descent: Descent,
        every: bool,
        generator: torch.Generator | None,
        sums: _Sums,
    ) -> None:
        with torch.enable_grad():
            self.part = landscape.separate(rows)
        self.space, self.rows, self.target, self.step_size = space, rows, target[rows], step_size
        self.descent, self.every, self.generator = descent, every, generator
        self.sums, self.leaves = sums, _Sums(self.part.leaves)
        self.states, self.energies = list[Tensor](), list[Tensor]()
        self.losses: list[Tensor] = []
        self.count = 0

    def run(self, start: Tensor) -> _Rows:
        """Descend, and add up all gradients."""
        ways = {"detached": self._detached, "truncated": self._truncated, "full": self._full}
        ways[self.descent.gradients](start[self.rows])
        source_of = {id(leaf): source for leaf, source in zip(self.part.leaves, self.part.sources, strict=True)}
        slopes = zip(self.leaves.tensors, self.leaves.sums, strict=True)
        self._differentiate([(source_of[id(leaf)], slope) for leaf, slope in slopes])
        return self

    def _detached(self, state: Tensor) -> None:
        view = None
        for index in range(self.descent.steps):
            gradients: Gradients = "detached" if self._counts(index) else "none"
            after = self._think(state, self._single(index, gradients), view).state
            slope, view = self._assess(index, after)
            self._differentiate([(after, slope)])
            state = after.detach()

    def _truncated(self, state: Tensor) -> None:
        """The last step alone has the graph of the landscape: the others are moves."""
        states = self._think(state, self.descent, None).states
        self._differentiate([(after, self._assess(index, after)[0]) for index, after in enumerate(states)])

    def _full(self, state: Tensor) -> None:
        """Forwards, keeping the graph of the last step, or of all if they are few; backwards, running the others again."""
        past, view, steps = list[_Step](), None, self.descent.steps
        for index in range(steps):
            kept = steps <= SHORT or index == steps - 1
            drawn = None if self.generator is None else self.generator.get_state()
            before = state.detach().requires_grad_()
            after = self._think(before, self._single(index, "full" if kept else "none"), view).state
            slope, view = self._assess(index, after)
            past.append(_Step(index, before, after if kept else None, slope, drawn))
            state = after.detach()
        adjoint: Tensor | None = None
        while past:
            adjoint = self._back(past.pop(), adjoint)

    def _back(self, step: _Step, adjoint: Tensor | None) -> Tensor | None:
        """From the adjoint of the state after a step to that of the state before it."""
        after = self._again(step) if step.after is None else step.after
        if step.slope is not None:
            adjoint = step.slope if adjoint is None else adjoint + step.slope
        return self._differentiate([(after, adjoint)], step.before)

    def _again(self, step: _Step) -> Tensor:
        """Run a step again, with its graph and the noise it had."""
        if self.generator is None or step.drawn is None:
            return self._think(step.before, self._single(step.index, "full"), None, note=False).state
        now = self.generator.get_state()
        self.generator.set_state(step.drawn)
        after = self._think(step.before, self._single(step.index, "full"), None, note=False).state
        self.generator.set_state(now)
        return after

    def _single(self, index: int, gradients: Gradients) -> Descent:
        told = (self.descent.told(index),)
        return replace(self.descent, steps=1, first=index, schedule=told, gradients=gradients, keep_states=True)

    def _think(self, state: Tensor, descent: Descent, view: Tensor | None, note: bool = True) -> Thought:
        """Think on; ``view`` is what the network sees of the state, where that is known."""
        alpha = self.step_size[self.rows] if self.step_size.dim() else self.step_size
        thought = think(self.part.landscape, self.space, state, alpha, descent, self.generator, view)
        if note:
            self.energies.append(thought.energies)
            self.states += [after.detach() for after in thought.states]
            self.states = self.states if self.descent.steps <= RECORDED else self.states[-1:]
        return thought

    def _counts(self, index: int) -> bool:
        return self.every or index == self.descent.steps - 1

    def _assess(self, index: int, state: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The slope of a state's losses, if they count, and its view, if it comes with them; the losses are noted."""
        scored, counts = self.space.scored(self.target), self._counts(index)
        into = [self.sums.place(table) for table in self.space.weights()] if counts else []
        found = self.space.assess(state.detach(), self.target, scored.to(state.dtype) if counts else None, into)
        scored = scored.expand_as(found.losses)
        self.losses.append((found.losses * scored).sum())
        self.count = int(scored.sum())
        return found.slope, found.view

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
    drawn: Tensor | None
    """The state of the generator before the step's noise was drawn."""
