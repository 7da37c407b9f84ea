"""Thinking options, and the function that validation, generation, commands and studies use to think."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from ebt.checks import check_fields
from ebt.thinking import (
    Budget,
    Change,
    CompactSimplex,
    Either,
    Energy,
    EnergyChange,
    FreeVector,
    Geometry,
    Gradient,
    Gradients,
    Mirror,
    Momentum,
    Places,
    Projected,
    Published,
    Restart,
    Rule,
    Simplex,
    Stop,
    Thought,
    Update,
    choose,
    descend,
    judge,
    revisit,
)

P = ParamSpec("P")
R = TypeVar("R")
SPACES: dict[str, tuple[type[Geometry], Update]] = {
    "reference": (Simplex, Published()),
    "listing": (Simplex, Gradient()),
    "mirror": (Simplex, Mirror()),
    "restart": (Simplex, Restart()),
    "compact-mirror": (CompactSimplex, Mirror()),
    "compact-restart": (CompactSimplex, Restart()),
    "free": (FreeVector, Gradient()),
}
"""Candidate spaces of a vocabulary by name: a geometry and its default update (notation as in ``ebt.thinking.geometry``).

================  ====================  ===========  =====================================================
space             geometry              update       next state
================  ====================  ===========  =====================================================
reference         Simplex               Published    l' = p - alpha W g           published code
listing           Simplex               Gradient     l' = l - alpha J(l) W g      listing of the paper
mirror            Simplex               Mirror       l' = l - alpha W g           entropic mirror descent
restart           Simplex               Restart      l' = -alpha W g
compact-mirror    CompactSimplex        Mirror       u' = u - alpha g             D numbers, l = W u
compact-restart   CompactSimplex        Restart      u' = -alpha g
free              FreeVector            Gradient     l' = l - alpha W g           seen as e = W^T l
euclidean         Euclidean, Projected  Gradient     y' = y - alpha P^T g         paper, equation 2
================  ====================  ===========  =====================================================
"""
VECTOR_SPACES: dict[str, tuple[type[Geometry], Update]] = {
    "euclidean": (Projected, Gradient()),
    "restart": (Projected, Restart()),
}
"""Candidate spaces of vectors by name."""
UPDATES = {"gradient": Gradient, "mirror": Mirror, "restart": Restart, "published": Published, "momentum": Momentum}
STOPS = {"change": Change, "energy": EnergyChange, "budget": Budget}
DISCRETE = ("decided", "visited", "majority")
"""Rules that need discrete answers."""
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "candidates", "noise_steps", "mean_from"), (1, 100_000)),
    **dict.fromkeys(("noise", "start_std"), (0, 1e6)),
    "step_size_scale": (1e-12, 1e12),
    "clamp": (1e-30, 1e30),
    "tolerance": (0, 1e30),
    "seed": (0, 2**63 - 1),
}
"""Smallest and largest allowed value of each field of ``Thinking``."""


def named(text: str, known: dict[str, Any], what: str, make: bool = True) -> Any:
    """Create the object named in a configuration: ``momentum``, ``momentum(0.7)`` or ``my_module.MyUpdate(0.7)``.

    Args:
        text: Name of a class, optionally followed by arguments in Python syntax.
        known: Classes by name.
        what: Name of the setting, for errors.
        make: Whether to create an object, or return the class.

    Raises:
        ValueError: If the class does not exist or does not accept the arguments.
    """
    name, opened, rest = text.strip().partition("(")
    try:
        if opened and not rest.endswith(")"):
            raise ValueError("the closing parenthesis is missing")
        arguments = _arguments(rest[:-1]) if rest.strip(" )") else ()
        if name in known:
            return _made(known[name], arguments) if make else known[name]
        module, dot, attribute = name.rpartition(".")
        if not dot:
            raise ValueError(f"choose one of {', '.join(known)}, or module.Class of your own")
        kind = getattr(importlib.import_module(module), attribute)
        base = {"update": Update, "space": Geometry}.get(what.rpartition(".")[2])
        if not isinstance(kind, type) or (not issubclass(kind, base) if base else "__call__" not in vars(kind)):
            raise ValueError(f"give {f'a subclass of ebt.thinking.{base.__name__}' if base else 'a class with __call__'}")
        return kind(*arguments) if make else kind
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{what} is {text!r}: {error}") from error


def _arguments(text: str) -> tuple[Any, ...]:
    try:
        return tuple(ast.literal_eval(f"({text},)"))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("its arguments must be numbers or texts in Python syntax") from error


def _made(kind: Any, arguments: tuple[Any, ...]) -> Any:
    try:
        return kind(*arguments)
    except TypeError as error:
        names = ", ".join(inspect.signature(kind).parameters) or "none"
        raise ValueError(f"its arguments do not fit, it takes {names}") from error


@dataclass(frozen=True)
class Thinking:
    """How a model thinks after training. Part of its configuration, and an argument of every call.

    Raises:
        ValueError: If a field has the wrong type or is outside its range.
    """

    steps: int = 3
    """Number of updates of each candidate. With a stop, the maximum."""
    candidates: int = 1
    """Number of candidates M for each prediction, one of which wins."""
    rule: Rule = "lowest"
    """How the winner is chosen, see ``ebt.thinking.Rule``."""
    noise: float = 0.0
    """Standard deviation of the Langevin noise. The first candidate has none, so it equals a single candidate."""
    noise_steps: int | None = None
    """Number of steps with noise, the first ones. None: all. Without noise, the last steps descend to the end."""
    step_size_scale: float = 1.0
    """Factor on the learned step size."""
    clamp: float | None = None
    """Largest absolute value of an element of the direction. None: no bound."""
    tolerance: float | None = None
    """Stop a prediction that changes by less than this in one step (``Change``)."""
    stop: str | None = None
    """Another stop by name: ``energy(0.001)``, ``budget(16)``, or your own ``my_module.MyStop``."""
    start_std: float = 1.0
    """Standard deviation of the starting candidates."""
    seed: int = 0
    """Seed of starts and noise."""
    mean_from: int = 1
    """First step to include in the average of ``rule: mean``."""

    def __post_init__(self) -> None:
        check_fields(self, LIMITS)
        self.stops()

    def but(self, **options: Any) -> Thinking:
        """A copy with the options that are not None.

        Raises:
            ValueError: If an option is unknown or invalid.
        """
        known = [field.name for field in fields(self)]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"there is no thinking option {unknown[0]!r}: choose from {', '.join(known)}")
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    @property
    def record_rule(self) -> Rule:
        """The rule that chooses the record: with ``mean``, ``lowest``."""
        return "lowest" if self.rule == "mean" else self.rule

    def stops(self) -> Stop | None:
        """The stop of ``tolerance`` and ``stop``. None: all steps are taken."""
        stops = [] if self.tolerance is None else [Change(self.tolerance)]
        stops += [] if self.stop is None else [named(self.stop, STOPS, "stop")]
        return Either(tuple(stops)) if len(stops) > 1 else stops[0] if stops else None


def uncompiled(function: Callable[P, R]) -> Callable[P, R]:
    """Like ``torch.compiler.disable``, which imports the compiler at once: here only if the function is being compiled."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


@uncompiled  # it takes gradients, and training differentiates them
def think(
    energy: Energy,
    geometry: Geometry,
    update: Update,
    step_size: Tensor | float,
    how: Thinking,
    parts: tuple[int, ...],
    *,
    start: Tensor | None = None,
    positions: Tensor | None = None,
    generator: torch.Generator | None = None,
    keep_path: bool = True,
    final_energy: bool = True,
    gradients: Gradients = "none",
    backend: str = "auto",
) -> Thought:
    """Think about B contexts with M candidates each, and keep the winners.

    Args:
        energy: See ``descend``.
        geometry: See ``descend``.
        update: See ``descend``.
        step_size: Learned step size alpha.
        how: Thinking options.
        parts: Shape (B, *P) of the predictions.
        start: Starting states (B, *P, K). Default: random.
        positions: Positions of the predictions (B, *P), which make random draws independent of batching.
        generator: Source of starts and noise. Default: ``Places`` with the seed of ``how``.
        keep_path: See ``descend``.
        final_energy: See ``descend``. Always True for several candidates.
        gradients: See ``descend``.
        backend: See ``descend``.

    Returns:
        The record of the winners. Its ``candidates`` is the record of all M x B rows.

    Raises:
        ValueError: If the rule is 'mean', 'decided', 'visited' or 'majority' and the geometry is not a vocabulary, there are no
            contexts, or the generator is something else.
    """
    if not isinstance(generator, torch.Generator | None):
        raise ValueError(f"generator is {generator!r}: give a torch.Generator, or a number as seed")
    if 0 in parts:
        raise ValueError(f"the context has predictions of shape {parts}: give at least one row and one prediction")
    if how.rule == "mean" and not isinstance(geometry, Simplex):
        raise ValueError("rule is 'mean', which needs a vocabulary: choose another rule")
    if how.rule in DISCRETE and type(geometry).decide is Geometry.decide:
        raise ValueError(f"rule is {how.rule!r}, but {type(geometry).__name__} has no discrete answers: choose another rule")
    draws, count = Places(how.seed, how.candidates, positions), how.candidates
    if start is None:
        start = geometry.start((count * parts[0], *parts[1:]), how.start_std, draws.at(-1) if generator is None else generator)
    else:
        start = start.repeat(count, *[1] * (start.dim() - 1))
    noise = torch.full((count, parts[0]), float(how.noise), device=start.device)
    noise[0] = 0
    thought = descend(
        energy,
        start,
        steps=how.steps,
        step_size=step_size * how.step_size_scale,
        geometry=geometry,
        update=update,
        stop=how.stops(),
        noise=noise.flatten(),
        noise_steps=how.noise_steps,
        clamp=how.clamp,
        generator=draws if generator is None else generator,
        final_energy=(final_energy or count > 1) and how.rule != "visited",
        keep_path=keep_path or how.rule in ("mean", "settled", "visited"),
        gradients=gradients,
        backend=backend,
    )
    if how.rule == "decided":
        thought = judge(energy, thought)
    elif how.rule == "visited":
        thought = revisit(energy, thought)
    return choose(thought, count, how.record_rule) if thought.final_energy else replace(thought, candidates=thought)
