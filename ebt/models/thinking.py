"""One value says how a model thinks; one function thinks by it: validation, generation, commands and studies alike."""

from __future__ import annotations

import ast
import importlib
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ebt.nn.checks import check_fields
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
)

SPACES: dict[str, tuple[type[Geometry], Update]] = {
    "reference": (Simplex, Published()),
    "listing": (Simplex, Gradient()),
    "mirror": (Simplex, Mirror()),
    "restart": (Simplex, Restart()),
    "compact-mirror": (CompactSimplex, Mirror()),
    "compact-restart": (CompactSimplex, Restart()),
    "free": (FreeVector, Gradient()),
}
"""Candidate spaces of a vocabulary by name: a geometry with its customary update (letters as in ``ebt.thinking.geometry``).

================  ====================  ===========  =====================================================
space             geometry              update       next state
================  ====================  ===========  =====================================================
reference         Simplex               Published    l' = p - alpha W g           the published code
listing           Simplex               Gradient     l' = l - alpha J(l) W g      the paper's listing
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
"""Candidate spaces of vectors."""
UPDATES = {"gradient": Gradient, "mirror": Mirror, "restart": Restart, "published": Published, "momentum": Momentum}
STOPS = {"change": Change, "energy": EnergyChange, "budget": Budget}
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("steps", "candidates", "mean_from"), (1, 100_000)),
    **dict.fromkeys(("noise", "start_std"), (0, 1e6)),
    "step_size_scale": (1e-12, 1e12),
    "clamp": (1e-30, 1e30),
    "tolerance": (0, 1e30),
    "seed": (0, 2**63 - 1),
}
"""The least and the largest value of each number of ``Thinking``."""


def named(text: str, known: dict[str, Any], what: str, make: bool = True) -> Any:
    """The object that a configuration names: ``momentum``, ``momentum(0.7)``, or ``my_module.MyUpdate(0.7)`` of your own.

    Args:
        text: the name, with arguments behind it in Python's notation.
        known: classes by name.
        what: what is named, for errors.
        make: False gives the class itself.

    Raises:
        ValueError: no such class, or other arguments than it takes.
    """
    name, _, rest = text.partition("(")
    try:
        arguments = ast.literal_eval(f"({rest.removesuffix(')')},)") if rest.strip(" )") else ()
        if name in known:
            return known[name](*arguments) if make else known[name]
        module, dot, attribute = name.rpartition(".")
        if not dot:
            raise ValueError(f"choose one of {', '.join(known)}, or module.Class of your own")
        kind = getattr(importlib.import_module(module), attribute)
        base = {"update": Update, "space": Geometry}.get(what.rpartition(".")[2])
        if not isinstance(kind, type) or (not issubclass(kind, base) if base else "__call__" not in vars(kind)):
            raise ValueError(f"it is no class of {'such a rule' if base is None else f'ebt.thinking.{base.__name__}'}")
        return kind(*arguments) if make else kind
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(f"{what} is {text!r}: {error}") from error


@dataclass(frozen=True)
class Thinking:
    """How a model thinks after training; part of its configuration and an argument of every call.

    Raises:
        ValueError: a value of the wrong type or outside its range, by name.
    """

    steps: int = 3
    candidates: int = 1
    """M candidates of each prediction, of which one wins."""
    rule: Rule = "lowest"
    """Which."""
    noise: float = 0.0
    """Langevin noise of all candidates but the first, which thinks as one alone does; the others explore."""
    step_size_scale: float = 1.0
    """alpha, as a multiple of the learned one; a smaller one commits later."""
    clamp: float | None = None
    """Largest absolute entry of the direction."""
    tolerance: float | None = None
    """A prediction that changes by less in one step stops (``Change``)."""
    stop: str | None = None
    """Another stop by name: ``energy(0.001)``, ``budget(16)``, or ``my_module.MyStop`` of your own."""
    start_std: float = 1.0
    """Standard deviation of the starting candidates."""
    seed: int = 0
    """Of the starts and the noise."""
    mean_from: int = 1
    """The first step that counts in a mean (``rule: mean``)."""

    def __post_init__(self) -> None:
        check_fields(self, LIMITS)
        self.stops()

    def but(self, **options: Any) -> Thinking:
        """The same with other values; None leaves a value as it is.

        Raises:
            ValueError: an unknown option.
        """
        known = [field.name for field in fields(self)]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"there is no thinking option {unknown[0]!r}: choose from {', '.join(known)}")
        return replace(self, **{name: value for name, value in options.items() if value is not None})

    def stops(self) -> Stop | None:
        """When a prediction is thought about no further."""
        stops = [] if self.tolerance is None else [Change(self.tolerance)]
        stops += [] if self.stop is None else [named(self.stop, STOPS, "stop")]
        return Either(tuple(stops)) if len(stops) > 1 else stops[0] if stops else None


@torch.compiler.disable  # gradients inside, and gradients of them
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
        energy: as for ``descend``.
        geometry: as for ``descend``.
        update: as for ``descend``.
        step_size: the learned alpha.
        how: how to think.
        parts: (B, *P), the predictions of the contexts.
        start: where candidates start, (B, *P, K); drawn by default.
        positions: where the predictions stand, (B, *P), for draws that do not depend on what is computed together.
        generator: draws starts and noise instead, each row its own.
        keep_path: as for ``descend``.
        final_energy: as for ``descend``; several candidates need it.
        gradients: as for ``descend``.
        backend: as for ``descend``.

    Returns:
        the winners' record; ``candidates`` in it is that of all M x B rows.

    Raises:
        ValueError: the mean of answers that are not words.
    """
    if how.rule == "mean" and not isinstance(geometry, Simplex):
        raise ValueError("rule is 'mean', which is for words: choose another one")
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
        clamp=how.clamp,
        generator=draws if generator is None else generator,
        final_energy=final_energy or count > 1,
        keep_path=keep_path or how.rule == "mean",
        gradients=gradients,
        backend=backend,
    )
    return choose(thought, count, how.rule) if thought.final_energy else replace(thought, candidates=thought)
