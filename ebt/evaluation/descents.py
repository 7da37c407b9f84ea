"""One descent that serves every number of steps up to its own, and every number of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.thinking import CandidateSpace, Descent, Landscape, Rule, Simplex, Thought, choose, mean, think


class SelectableLandscape(Landscape, Protocol):
    """A landscape that can be had for some rows only."""

    def select(self, rows: Tensor, /) -> Landscape: ...


def thinks(model: Any) -> bool:
    """Whether a model descends an energy; otherwise it is a feed-forward or looped rival."""
    return hasattr(model, "landscape")


def check_counts(name: str, counts: Sequence[int]) -> list[int]:
    """The counts, sorted and each once.

    Raises:
        InputError: none at all, or one below 1.
    """
    if not counts or min(counts) < 1:
        raise InputError(f"{name} is {list(counts)}: give one or more whole numbers, each at least 1.")
    return sorted(set(counts))


@dataclass(frozen=True)
class Recorded:
    """A descent of M x B rows with all states, and the energies after those numbers of steps that are asked for."""

    thought: Thought
    space: CandidateSpace
    candidates: int
    after: dict[int, Tensor]
    """Energies per part (N, *P) of the states after so many steps."""

    def at(self, steps: int, candidates: int = 1, rule: Rule = "lowest") -> Thought:
        """What thinking for ``steps`` steps with the first ``candidates`` gives: the record of the winners, one state."""
        states = self.thought.states
        cut = replace(
            self.thought,
            states=(states[min(steps, len(states)) - 1],),
            energies=torch.stack((self.thought.energies[0], self.after[steps])),
            steps=self.thought.steps.clamp(max=steps),
            final_energy=True,
        )
        rows = len(cut.start) // self.candidates * candidates
        return choose(cut.rows(torch.arange(rows, device=cut.start.device)), self.space, candidates, rule)

    def mean(self, steps: int, candidates: int, first: int, rows: Tensor) -> Tensor:
        """The mean of what the first ``candidates`` thought about some rows until ``steps`` (see ``ebt.thinking.mean``)."""
        assert isinstance(self.space, Simplex)
        taken = (state.unflatten(0, (self.candidates, -1)) for state in self.thought.states[:steps])
        cut = replace(self.thought, states=tuple(state[:candidates, rows].flatten(0, 1) for state in taken))
        return mean(cut, self.space, candidates, first)

    def taken(self, steps: int, candidates: int) -> float:
        """Mean number of updates per row of the first ``candidates`` when ``steps`` are allowed."""
        rows = len(self.thought.start) // self.candidates * candidates
        return self.thought.steps[:rows].clamp(max=steps).double().mean().item()


def evaluations(taken: float, candidates: int) -> tuple[float, float]:
    """Forward and inner backward passes for an answer; choosing among candidates takes one more forward pass each."""
    return candidates * (taken + (candidates > 1)), candidates * taken


def descend(
    landscape: SelectableLandscape,
    space: CandidateSpace,
    start: Tensor,
    step_size: Tensor | float,
    steps: Sequence[int],
    candidates: int = 1,
    tolerance: float | None = None,
    conditioned: bool = False,
    noise: Tensor | float = 0.0,
    generator: torch.Generator | None = None,
) -> Recorded:
    """Think once, for the largest of ``steps``.

    Args:
        landscape, space, start, step_size: as for ``ebt.thinking.think``; rows are candidate-major.
        steps: the numbers of steps to record, ascending.
        candidates: M.
        tolerance: rows that have converged leave the batch and keep their last state.
        noise, generator: Langevin noise, and what draws it.
        conditioned: the landscape changes with the step, so that the energy before a step is not that of an answer.
    """
    shared = (
        not conditioned and tolerance is None and not torch.as_tensor(noise).any()
    )  # before each step, noise moves the state that was the answer
    descent = Descent(max(steps), tolerance=tolerance, noise=noise, final_energy=shared)
    thought = think(landscape, space, start, step_size, descent, generator)
    if shared:
        return Recorded(thought, space, candidates, {step: thought.energies[step] for step in steps})
    return Recorded(thought, space, candidates, _energies_after(landscape, space, thought, steps))


def _energies_after(
    landscape: SelectableLandscape, space: CandidateSpace, thought: Thought, steps: Sequence[int]
) -> dict[int, Tensor]:
    """Energies of the recorded states, on the landscape of the step that led there; of rows that have moved only."""
    after: dict[int, Tensor] = {}
    energies, previous = thought.energies[0], 0
    for step in steps:
        rows = (thought.steps > previous).reshape(len(energies), -1).any(1).nonzero().squeeze(1)
        if len(rows):
            last = min(step, len(thought.states)) - 1
            energies = energies.index_copy(0, rows, landscape.select(rows)(space.view(thought.states[last][rows]), last))
        after[step], previous = energies, step
    return after
