"""Thinking: the one descent loop, for training and inference, every modality, one candidate or many.

y[i+1] = y[i] - alpha dE(x, y[i])/dy + noise                                        (paper, equations 2 and 5)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ebt.thinking.record import Evaluations, Thought
from ebt.thinking.spaces import CandidateSpace

Gradients = Literal["none", "detached", "truncated", "full"]
"""How gradients pass through the descent.

none: inference, no graph; detached (S1): a candidate is a constant at the beginning of each step, each step's loss sees its own
second-order term; truncated (S2): the energies' gradients of all steps but the last are constants; full: nothing is cut.
"""


class Landscape(Protocol):
    """The energy as a function of the candidate, bound to an encoded context.

    Takes what the network sees of the candidates, (N, *P, D), and the step index; returns energies per part, (N, *P). Rows are
    candidate-major: row ``m * B + b`` is candidate m of context b. A landscape may offer ``select(rows)``, or
    ``select(rows, positions)`` where each position is a prediction of its own: the landscape of some predictions only, each in
    a row of its own. Then predictions that have converged are not evaluated any more.
    """

    def __call__(self, candidate: Tensor, step: int, /) -> Tensor: ...


class NonFiniteError(ArithmeticError):
    """An energy, a gradient or a candidate is not finite; the message names the tensor and the step."""


@dataclass(frozen=True)
class Descent:
    """How one call thinks."""

    steps: int
    """Number of updates; with a tolerance, the cap."""
    gradients: Gradients = "none"
    noise: float | Tensor = 0.0
    """Standard deviation of the Langevin noise added to the state before each step; one for all, or one per prediction."""
    clamp: float | None = None
    """Largest absolute entry of the descent direction."""
    tolerance: float | None = None
    """A prediction that changes by less than this in one step has converged and stops (see ``CandidateSpace.change``)."""
    final_energy: bool = False
    """Evaluate the energy of the final state, too (one more forward pass, without noise)."""
    keep_states: bool = True
    schedule: tuple[int, ...] | None = None
    """The step index that the network is told at each step, for conditioned networks; 0, 1, 2, ... by default."""
    first: int = 0
    """Steps taken before this call, where a longer descent goes on: its errors name the step counted from the beginning."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}: thinking needs at least 1 step")
        if self.schedule is not None and len(self.schedule) != self.steps:
            raise ValueError(f"schedule has {len(self.schedule)} entries for {self.steps} steps: give one step index a step")
        if torch.as_tensor(self.noise).lt(0).any():
            raise ValueError(f"noise is {self.noise}: a standard deviation cannot be negative; 0 turns it off")
        if self.clamp is not None and self.clamp <= 0:
            raise ValueError(f"clamp is {self.clamp}: give a positive bound, or null for none")
        if self.gradients not in get_args(Gradients):
            raise ValueError(f"gradients is {self.gradients!r}: choose one of {', '.join(get_args(Gradients))}")
        if self.tolerance is not None and (self.tolerance < 0 or self.gradients != "none"):
            raise ValueError("tolerance must be >= 0 and serves inference only: set gradients to none")

    def told(self, step: int) -> int:
        """The step index that the network is told at a step."""
        return step if self.schedule is None else self.schedule[step]


def think(
    landscape: Landscape,
    space: CandidateSpace,
    start: Tensor,
    step_size: Tensor | float,
    descent: Descent,
    generator: torch.Generator | None = None,
    view: Tensor | None = None,
) -> Thought:
    """Descend the landscape from ``start``.

    Args:
        landscape: energies of candidates, see ``Landscape``.
        space: the candidate space that ``start`` lives in.
        start: starting states (N, *P, K).
        step_size: alpha; a number, or one per prediction (its leading dimensions are the state's).
        descent: number of steps, gradients, noise, stopping.
        generator: of the Langevin noise.
        view: what the network sees of ``start``, where that is known; noise makes it useless.

    Raises:
        NonFiniteError: an energy, a gradient or a candidate is not finite.
    """
    alpha, noise = per_prediction(step_size, start), per_prediction(descent.noise, start)
    known = None if view is None or noise.any() else view
    active = _Active(landscape, space, start, descent.tolerance)
    state, states = start, list[Tensor]()
    energies = list[Tensor]()
    with torch.set_grad_enabled(descent.gradients != "none"):
        for step in range(descent.steps):
            here = active.part_of(state)
            if descent.gradients in ("none", "detached"):
                here = here.detach()
            if known is None:
                here, view = space.look(here, active.part_of(noise), generator)
            else:
                view, known = space.attach(here, known), None
            here, energy = _update(active, here, view, active.part_of(alpha), descent, step)
            energies.append(active.put(energies[-1] if energies else None, energy))
            state = active.advance(state, here)
            if descent.keep_states:
                states.append(state)
            if active.done:
                break
        if descent.final_energy:
            with torch.no_grad():
                told = descent.told(len(energies) - 1)
                energies.append(_finite(landscape(space.view(state), told), "energy", descent.first + len(energies)))
    return Thought(
        start=start,
        states=tuple(states) if descent.keep_states else (state,),
        energies=torch.stack(energies),
        steps=active.steps,
        step_size=alpha,
        evaluations=active.count(final=descent.final_energy),
        final_energy=descent.final_energy,
    )


def _update(active: _Active, here: Tensor, view: Tensor, alpha: Tensor, descent: Descent, step: int) -> tuple[Tensor, Tensor]:
    """One step of the predictions still thinking: their next states and the energies (constants) before it."""
    space, last = active.space, step == descent.steps - 1
    second_order = descent.gradients in ("detached", "full") or (descent.gradients == "truncated" and last)
    number = descent.first + step
    energies, gradient = slope(active.landscape, view, number, second_order, descent.told(step))
    direction = space.direction(here, gradient).to(here.dtype)
    if not second_order:  # also cuts the table out of the direction: earlier states depend on no weight but alpha
        direction = direction.detach()
    if descent.clamp is not None:
        direction = direction.clamp(-descent.clamp, descent.clamp)
    return _finite(space.move(here, direction, alpha), "candidate", number), energies.detach()


def slope(
    landscape: Callable[[Tensor, int], Tensor], view: Tensor, step: int, second_order: bool, told: int | None = None
) -> tuple[Tensor, Tensor]:
    """Energies per part and their gradient with respect to what the network sees, ``dE/dview``.

    ``told`` is the step index that the network is told, where it is not ``step`` itself. Works under ``no_grad``, as
    ``generate()`` needs.

    Raises:
        NonFiniteError: an energy or a gradient is not finite.
    """
    with torch.enable_grad():
        if not (second_order and view.requires_grad):
            view = view.detach().requires_grad_()
        energies = landscape(view, step if told is None else told)
        (gradient,) = torch.autograd.grad(energies.sum(), view, create_graph=second_order)
    return _finite(energies, "energy", step), _finite(gradient, "gradient of the energy", step)


def _finite(tensor: Tensor, name: str, step: int) -> Tensor:
    if not torch.isfinite(tensor).all():
        raise NonFiniteError(
            f"{name} at thinking step {step + 1} is not finite: "
            "lower the learning rate or the step size, or clamp the direction"
        )
    return tensor


def per_prediction(value: Tensor | float, state: Tensor) -> Tensor:
    """A number, or one per prediction, broadcastable to the states."""
    value = torch.as_tensor(value, dtype=state.dtype, device=state.device)
    return value.reshape(*value.shape, *([1] * (state.dim() - value.dim()))) if value.dim() else value


class _Active:
    """Which predictions are still thinking. Without a tolerance: all of them, and nothing is copied.

    Once some have left, those still evaluated are n rows of one prediction each, (n, 1, .., K).
    """

    def __init__(self, landscape: Landscape, space: CandidateSpace, start: Tensor, tolerance: float | None) -> None:
        self.whole, self.landscape, self.space, self.tolerance = landscape, landscape, space, tolerance
        self.predictions = start.shape[: space.prediction_dims]
        self.steps = torch.zeros(self.predictions, dtype=torch.long, device=start.device)
        self.moving = torch.ones(self.predictions, dtype=torch.bool, device=start.device)
        self.index: tuple[Tensor, ...] | None = None  # predictions still evaluated, if not all: rows, and positions
        self.evaluated = 0
        self.done = False

    def part_of(self, tensor: Tensor) -> Tensor:
        """Of the predictions still evaluated; ``tensor`` is broadcastable to states, or has one entry a prediction."""
        if self.index is None or tensor.dim() == 0:
            return tensor
        dims = len(self.predictions)
        picked = tensor.expand(*self.predictions, *tensor.shape[dims:])[self.index]
        return picked.reshape(-1, *[1] * (dims - 1), *picked.shape[1:])

    def put(self, whole: Tensor | None, part: Tensor) -> Tensor:
        if self.index is None or whole is None:
            return part
        return whole.index_put(self.index, part.flatten(0, len(self.predictions) - 1))

    def advance(self, state: Tensor, here: Tensor) -> Tensor:
        """The whole state with the predictions' new values; afterwards, what has converged is out."""
        self.evaluated += here.shape[: len(self.predictions)].numel()
        if self.tolerance is None:
            self.steps += 1
            return here
        before, moving = self.part_of(state), self.part_of(self.moving)
        here = torch.where(moving.reshape(*moving.shape, *([1] * (here.dim() - moving.dim()))), here, before)
        self.steps += self.moving
        state = self.put(state, here)
        self.moving = self.put(self.moving, moving & (self.space.change(before, here) >= self.tolerance))
        self._drop()
        return state

    def _drop(self) -> None:
        index = self.moving.nonzero(as_tuple=True)
        left = len(index[0])
        self.done = left == 0
        select = getattr(self.whole, "select", None)
        if select is not None and 0 < left < (self.moving.numel() if self.index is None else len(self.index[0])):
            self.index, self.landscape = index, select(*index)

    def count(self, final: bool) -> Evaluations:
        passes = self.evaluated / self.steps.numel()
        return Evaluations(forward=passes + final, backward=passes)
