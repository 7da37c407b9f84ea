"""The descent, shared by training and inference in every modality (paper, equations 2 and 5)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ebt.checks import as_tensor, check_kind, name_of
from ebt.thinking.fast.central import Nudge, passes_of, repeatable
from ebt.thinking.fast.leaving import Leaving
from ebt.thinking.geometry import Euclidean, Geometry
from ebt.thinking.noise import Draws, broadcastable
from ebt.thinking.stop import Everyone, Stop
from ebt.thinking.thought import Evaluations, Thought
from ebt.thinking.update import Gradient, Update, moved

Gradients = Literal["none", "detached", "truncated", "full"]
"""How gradients flow through a descent. none: inference. detached (S1): the candidate is detached before each step. truncated
(S2): energy gradients are constants, except at the last step. full: back-propagation through all steps."""
Energy = Callable[..., Tensor]
"""A function from views of candidates (N, *P, D), and optionally the step index, to energies per part (N, *P). A *landscape* is
such a function for one encoded context. If it has a method ``slope(view, step)``, this returns energies and the gradient to
follow, in place of a derivative by autograd. If it has a method ``select(rows)``, or ``select(rows, positions)`` where each
position is a separate prediction, then predictions that have stopped are no longer evaluated. If it has a method ``once()``,
descents that need first derivatives only use the energy that it returns, which may be faster."""


class NonFiniteError(ArithmeticError):
    """An energy, a gradient or a candidate is not finite. The message names the tensor and the step."""


class LandscapeError(ValueError):
    """An energy cannot be differentiated with respect to its candidates. The message names it."""


def descend(
    energy: Energy,
    start: Tensor,
    *,
    steps: int,
    step_size: Tensor | float | Callable[[], Tensor],
    geometry: Geometry | None = None,
    update: Update | None = None,
    stop: Stop | None = None,
    noise: Tensor | float = 0.0,
    noise_steps: int | None = None,
    clamp: float | None = None,
    gradients: Gradients = "none",
    generator: torch.Generator | Draws | None = None,
    schedule: tuple[int, ...] | None = None,
    first: int = 0,
    final_energy: bool = True,
    keep_path: bool = True,
    nudge: Nudge | None = None,
    backend: str = "auto",
) -> Thought:
    """Descend an energy: ``y[i+1] = y[i] - alpha dE(x, y[i])/dy + noise`` (paper, equation 2; with noise, equation 5).

    Args:
        energy: Energy with the context x bound in it, see ``Energy``.
        start: Initial candidates y[0], (N, *P, K).
        steps: Number of updates T. With ``stop``, the maximum.
        step_size: Step size alpha, a scalar, one value per prediction or a ``StepSize``.
        geometry: Where candidates live. Default: ``Euclidean``, in which each vector is one prediction.
        update: How candidates move. Default: ``Gradient``.
        stop: When a prediction stops. For inference only.
        noise: Standard deviation of the Langevin noise added before each step, a scalar or one value per prediction.
        noise_steps: Number of steps of the whole descent that have noise, the first ones. Default: all.
        clamp: Largest absolute value of an element of the direction.
        gradients: How gradients flow through the descent, see ``Gradients``.
        generator: Source of the noise.
        schedule: Step index passed to the energy at each step. Default: 0, 1, 2, ...
        first: Number of steps taken before this call, if it continues a longer descent.
        final_energy: Whether to evaluate the energy of the final states, which self-verification needs.
        keep_path: Whether to keep the state after every step, or only the last one.
        nudge: Central differences for gradients of gradients (``ebt.thinking.fast.central``). Default: exact.
        backend: ``plain`` evaluates every prediction at every step. ``auto`` skips predictions that have stopped.

    Returns:
        The record of all rows.

    Raises:
        ValueError: If an argument is outside its range, or the energies do not match the candidates.
        NonFiniteError: If an energy, a gradient or a candidate is not finite.
    """
    check(steps, noise, noise_steps, clamp, gradients, stop, schedule, backend)
    check_start(start)
    check_parts(energy, geometry, update, stop, generator)
    check_step_size(step_size)
    geometry = Euclidean(max(1, start.dim() - 1), tuple(start.shape[-1:]), like=start) if geometry is None else geometry
    watch = gradients == "none" or start.device.type == "cpu"  # training on a device does not wait for it at every step
    update, index = Gradient() if update is None else update, range(first, first + steps) if schedule is None else schedule
    if gradients == "none" or nudge is not None:
        energy = getattr(energy, "once", lambda: energy)()
    with torch.inference_mode(False), torch.set_grad_enabled(gradients != "none"):
        start = start.clone() if start.is_inference() else start
        alpha = per_prediction("step_size", step_size() if callable(step_size) else step_size, start)
        std = per_prediction("noise", noise, start) if torch.as_tensor(noise).any() else None
        rows = (Everyone if backend == "plain" else Leaving)(with_step(energy), geometry, start, stop)
        state, memory, states, energies = start, update.begin(start), list[Tensor](), list[Tensor]()
        for i in range(steps):
            y, kept = rows.part(state), rows.part(memory)
            y = y.detach() if gradients in ("none", "detached") else y
            noisy = rows.part(std if noise_steps is None or first + i < noise_steps else None)
            y, view = geometry.look(y, noisy, rows.source(generator, first + i))  # y[i] + noise
            second = gradients in ("detached", "full") or (gradients == "truncated" and i == steps - 1)
            e, g = slope(rows.energy, view, first + i, second, index[i], nudge, watch)  # E(x, y[i]) and dE/dview
            direction = update.direction(geometry, y, g).to(y.dtype)
            direction = direction if second else direction.detach()  # constant, so y depends on alpha only
            direction = direction if clamp is None else direction.clamp(-clamp, clamp)
            y, kept = moved(update, y, direction, rows.part(alpha), kept)  # y[i+1] = y[i] - alpha dE/dy
            energies.append(rows.put(energies[-1] if energies else None, e.detach()))
            memory = rows.put(memory, kept)
            state = rows.advance(state, finite(y, "candidate", first + i) if watch else y, e.detach())
            states = [*states, state] if keep_path else [state]
            if rows.done:
                break
        if final_energy:
            with torch.no_grad():
                last = with_step(energy)(geometry.view(state), index[len(energies) - 1])
            energies.append(finite(last, "energy", first + len(energies)))
        inner = 0.0 if own_slope(energy) else rows.passes
        passes = Evaluations(rows.passes + final_energy, inner)
        return Thought(geometry, update, start, tuple(states), torch.stack(energies), rows.steps, alpha, passes, final_energy)


def slope(
    energy: Energy,
    view: Tensor,
    step: int,
    second_order: bool,
    told: int | None = None,
    nudge: Nudge | None = None,
    watch: bool = True,
) -> tuple[Tensor, Tensor]:
    """Evaluate an energy and its gradient, or what the energy gives in its place (``Energy``). Works under ``no_grad``.

    Args:
        energy: Function of a view and a step index.
        view: What the network sees of the candidates, (N, *P, D).
        step: Number of the step for error messages, from 0.
        second_order: Whether to keep the graph of the gradient.
        told: Step index passed to the energy. Default: ``step``.
        nudge: See ``descend``.
        watch: Whether to check that energies and gradients are finite, for which the host waits for the device.

    Returns:
        Energies per part (N, *P), and their gradient ``dE/dview`` (N, *P, D).

    Raises:
        NonFiniteError: If an energy or a gradient is not finite.
        LandscapeError: If the energies do not depend on the candidates, or have no derivative.
        ValueError: If the energies do not match the candidates, or use tensors made under ``torch.inference_mode``.
    """
    told = step if told is None else told
    if (own := own_slope(energy)) is not None:
        with torch.set_grad_enabled(second_order):
            energies, gradient = own(view, told)
    else:
        energies, gradient = _differentiated(energy, view, told, second_order, nudge)
    if watch:
        finite(energies, "energy", step)
        finite(gradient, "gradient of the energy", step)
    return energies, gradient


@torch.no_grad()
def judge(energy: Energy, thought: Thought) -> Thought:
    """Evaluate the discrete answers of a descent: the energy of the most probable entries, without their probabilities.

    Answers with a mistake have higher energies than right ones more often than the final states do. One more forward pass.

    Args:
        energy: The energy that was descended.
        thought: Record of N rows on a vocabulary.

    Returns:
        The record with ``decided``.

    Raises:
        ValueError: If the geometry has no discrete answers.
    """
    step = max(int(thought.steps.max()) - 1, 0)
    energies = finite(with_step(energy)(thought.geometry.decided(thought.state), step), "energy of an answer", step)
    passes = replace(thought.evaluations, forward=thought.evaluations.forward + 1)
    return replace(thought, decided=energies, evaluations=passes)


@torch.no_grad()
def energies_after(energy: Energy, thought: Thought, steps: Sequence[int], see: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Evaluate the states after some numbers of steps, each on the landscape of its last step.

    Rows that have not moved since the number before are not evaluated again, if the energy has a method ``select``.

    Args:
        energy: The energy that was descended.
        thought: Record of N rows, with all states.
        steps: Numbers of steps, ascending.
        see: What the network sees of states: ``geometry.view``, or ``geometry.decided`` for discrete answers.

    Returns:
        Energies per part (N, *P) for each number of steps.
    """
    found, previous = list[Tensor](), 0
    for step in steps:
        last = min(step, len(thought.states)) - 1
        rows = (thought.steps > previous).flatten(1).any(1) if thought.steps.dim() > 1 else thought.steps > previous
        if found and not rows.any():
            found.append(found[-1])
        elif found and not rows.all() and hasattr(energy, "select"):
            moved = rows.nonzero().squeeze(1)
            part = with_step(energy.select(moved))(see(thought.states[last][moved]), last)
            found.append(found[-1].index_copy(0, moved, finite(part, "energy", last)))
        else:
            found.append(finite(with_step(energy)(see(thought.states[last]), last), "energy", last))
        previous = step
    return found


@torch.no_grad()
def revisit(energy: Energy, thought: Thought, judged: Tensor | None = None) -> Thought:
    """Return each prediction to the best discrete answer that it met: ``judge`` for all states on the way.

    A descent may find the right answer and leave it again. One more forward pass for each step, and one for the energies of the
    states that are returned to.

    Args:
        energy: The energy that was descended.
        thought: Record of N rows on a vocabulary, with all states.
        judged: Energies per part (T, N, *P) of the discrete answers after each update, if they are known.

    Returns:
        The record with ``decided``, in which each prediction stops at its best answer.

    Raises:
        ValueError: If the geometry has no discrete answers, or the path was not kept.
    """
    if judged is None:
        judged = torch.stack(energies_after(energy, thought, range(1, len(thought.states) + 1), thought.geometry.decided))
    step, back = max(int(thought.steps.max()) - 1, 0), thought.returned(judged)
    final = finite(with_step(energy)(back.geometry.view(back.state), step), "energy", step)
    passes = replace(thought.evaluations, forward=thought.evaluations.forward + thought.steps.double().mean().item() + 1)
    energies = torch.cat((back.energies[: len(judged)], final.unsqueeze(0)))
    return replace(back, energies=energies, evaluations=passes, final_energy=True)


@contextmanager
def leave_inference_mode() -> Iterator[None]:
    """Leave ``torch.inference_mode``, in which thinking cannot compute gradients, for ``no_grad``."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def own_slope(energy: Any) -> Callable[[Tensor, int], tuple[Tensor, Tensor]] | None:
    """The method ``slope`` of an energy that gives its own. Weights of that name do not count."""
    found = getattr(energy, "slope", None)
    return found if callable(found) else None


def _differentiated(energy: Energy, view: Tensor, told: int, second_order: bool, nudge: Nudge | None) -> tuple[Tensor, Tensor]:
    """Energies and their gradient by autograd. Arguments and errors as in ``slope``."""
    with torch.enable_grad():
        view = view if second_order and view.requires_grad else view.detach().requires_grad_()
        again = repeatable(energy, view) if second_order and nudge is not None else energy
        if (passes := passes_of(energy, nudge)) is None:
            energies = evaluated(energy, told, view)
            gradient = _gradient(energy, energies, view, second_order and nudge is None)
        else:
            energies, gradient = passes.first(energy, told, view)
        if second_order and nudge is not None:
            gradient = nudge.gradient(again, told, view, energies, gradient)
    return energies, gradient


def evaluated(energy: Energy, told: int, view: Tensor) -> Tensor:
    """Energies at a view. Errors as in ``slope``."""
    try:
        energies: Tensor = energy(view, told)
    except RuntimeError as error:
        if "Inference tensors cannot be saved" not in str(error):
            raise
        raise ValueError(
            "the energy uses tensors made under torch.inference_mode, which do not support gradients:"
            " create them outside of it, or under torch.no_grad"
        ) from error
    if not isinstance(energies, Tensor):
        raise ValueError(f"the energy returned {type(energies).__name__}: return a tensor, one energy per part")
    if energies.shape[:1] != view.shape[:1]:
        raise ValueError(f"energies {tuple(energies.shape)} for candidates {tuple(view.shape)}: return one energy per part")
    return energies


def _gradient(energy: Energy, energies: Tensor, view: Tensor, create_graph: bool) -> Tensor:
    name, gradient = name_of(energy), None
    if energies.requires_grad:
        try:
            (gradient,) = torch.autograd.grad(energies.sum(), view, create_graph=create_graph, allow_unused=True)
        except RuntimeError as error:
            if "implement" not in str(error):  # as in "derivative for aten::... is not implemented"
                raise
            raise LandscapeError(f"the energy {name} has no derivative ({error}): compute it by other operations") from error
    if gradient is None:
        raise LandscapeError(
            f"the energy {name} does not depend on the candidates: compute it from its first argument by differentiable "
            "operations, which comparing, rounding to integers and detaching are not"
        )
    return gradient


def check(steps: int, noise: Any, noise_steps: Any, clamp: Any, gradients: str, stop: Any, schedule: Any, backend: str) -> None:
    """Raise ``ValueError`` if a setting of a descent is outside its range."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps is {steps}: give a whole number of at least 1")
    if schedule is not None and len(schedule) != steps:
        raise ValueError(f"schedule has {len(schedule)} entries for {steps} steps: give one step index per step")
    if not (std := as_tensor("noise", noise)).numel() or not std.ge(0).all():
        raise ValueError(f"noise is {noise}: give a standard deviation of at least 0; 0 turns it off")
    if noise_steps is not None and not (isinstance(noise_steps, int) and noise_steps >= 0):
        raise ValueError(f"noise_steps is {noise_steps!r}: give the number of steps with noise, or null for all")
    check_kind("clamp", clamp, int | float, "give a positive bound, or null for none")  # type: ignore[arg-type]
    if clamp is not None and not clamp > 0:
        raise ValueError(f"clamp is {clamp}: give a positive bound, or null for none")
    if gradients not in get_args(Gradients):
        raise ValueError(f"gradients is {gradients!r}: choose one of {', '.join(get_args(Gradients))}")
    if stop is not None and gradients != "none":
        raise ValueError("stop is for inference only: set gradients to none")
    if backend not in ("auto", "plain"):
        raise ValueError(f"backend is {backend!r}: choose auto or plain")


def check_start(start: Any) -> None:
    """Raise ``ValueError`` if candidates are no tensor of floats, or there are none."""
    if not isinstance(start, Tensor) or not (start.is_floating_point() or start.is_complex()):
        found = start.dtype if isinstance(start, Tensor) else type(start).__name__
        raise ValueError(f"start is {found}: give a tensor of floating point numbers (N, *P, K)")
    if not start.dim() or not start.shape[:-1].numel():
        raise ValueError(f"start has shape {tuple(start.shape)}, which has no candidate: give (N, *P, K) with at least one")


def check_step_size(step_size: Any) -> None:
    """Raise ``ValueError`` if a step size is negative, on the CPU: elsewhere the host would wait for the device."""
    if not callable(step_size) and (alpha := as_tensor("step_size", step_size)).device.type == "cpu" and not alpha.ge(0).all():
        raise ValueError(f"step_size is {step_size}: give a number of at least 0")


def check_parts(energy: Any, geometry: Any, update: Any, stop: Any = None, generator: Any = None) -> None:
    """Raise ``ValueError`` if a component of a descent is something else."""
    if not callable(energy):
        raise ValueError(f"energy is {energy!r}: give a function of the candidates that returns their energies")
    for name, value, kind, method in (("geometry", geometry, Geometry, "look"), ("update", update, Update, "begin")):
        if value is not None and (isinstance(value, type) or not hasattr(value, method)):
            raise ValueError(f"{name} is {value!r}: give an object of a subclass of ebt.{kind.__name__}")
    if not (generator is None or isinstance(generator, torch.Generator) or hasattr(generator, "at")):
        raise ValueError(f"generator is {generator!r}: give a torch.Generator")
    if isinstance(stop, type) or not (stop is None or callable(stop)):
        raise ValueError(f"stop is {stop!r}: give an object such as ebt.Change(0.01)")


def with_step(energy: Energy) -> Energy:
    """The energy as a function of a view and a step index."""
    try:
        needed = inspect.signature(_declared(energy)).parameters.values()
    except (TypeError, ValueError):
        return energy
    places = [p for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    takes_two = len(places) > 1 or any(p.kind is p.VAR_POSITIONAL for p in needed)
    if takes_two:
        return energy

    def of_view(view: Tensor, _: int) -> Tensor:
        return energy(view)

    of_view.__qualname__ = name_of(energy)  # for errors
    if (own := own_slope(energy)) is not None:
        of_view.slope = own  # type: ignore[attr-defined]
    return of_view


def _declared(energy: Any) -> Any:
    """What an energy calls, behind ``partial``, ``torch.compile``, data parallelism and ``vmap``, which hide its signature."""
    if isinstance(energy, partial):
        return partial(_declared(energy.func), *energy.args, **energy.keywords)
    called = energy.forward if isinstance(energy, nn.Module) else energy
    if all(p.kind is not p.VAR_POSITIONAL for p in inspect.signature(called).parameters.values()):
        return called
    found = (getattr(energy, name, None) for name in ("_orig_mod", "module", "__wrapped__"))
    return next((_declared(inner) for inner in found if callable(inner)), called)


def finite(tensor: Tensor, name: str, step: int) -> Tensor:
    """Return the tensor, or raise ``NonFiniteError`` if an element is not finite."""
    if not torch.isfinite(tensor).all():
        remedy = "lower the learning rate or the step size, or clamp the direction"
        raise NonFiniteError(f"{name} at thinking step {step + 1} is not finite: {remedy}")
    return tensor


def per_prediction(name: str, value: Any, state: Tensor) -> Tensor:
    """Reshape a scalar, or one value per prediction, to broadcast against states. Raises ``ValueError`` if it is neither."""
    value = as_tensor(name, value, state)
    if value.dim() > state.dim() or any(own not in (1, size) for own, size in zip(value.shape, state.shape, strict=False)):
        raise ValueError(f"{name} has shape {tuple(value.shape)} for candidates {tuple(state.shape)}: give one per prediction")
    return broadcastable(value, state.dim()) if value.dim() else value
