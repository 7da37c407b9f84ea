"""Results for several numbers of steps and candidates from a single descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.thinking import Thinking, think
from ebt.thinking import Thought, choose, judge, mean, revisit
from ebt.thinking.descent import energies_after


def check_counts(name: str, counts: Sequence[int]) -> list[int]:
    """Distinct counts in ascending order. Raises ``InputError`` if there are none or one is below 1."""
    if not counts or min(counts) < 1:
        raise InputError(f"{name} is {list(counts)}: give one or more whole numbers, each at least 1.")
    return sorted(set(counts))


@dataclass(frozen=True)
class Explored:
    """A descent of M x B rows with all states, and the energies after the requested numbers of steps."""

    thought: Thought
    """The record of all rows, candidate-major."""
    how: Thinking
    """Thinking options, with the largest numbers of steps and candidates."""
    after: dict[int, Tensor]
    """Energies per part (M x B, *P) of the states, by number of steps."""
    energy: Any
    """The energy that was descended."""

    @property
    def first(self) -> Thought:
        """The record of the first candidate of each context."""
        return self.thought.rows(torch.arange(self.rows, device=self.thought.start.device))

    @property
    def differentiates(self) -> bool:
        """Whether steps took inner backward passes."""
        return self.thought.evaluations.backward > 0

    @property
    def rows(self) -> int:
        """Number of contexts B."""
        return len(self.thought.start) // self.how.candidates

    @cached_property
    def judged(self) -> Tensor:
        """Energies per part (T, M x B, *P) of the discrete answers after each step."""
        steps = range(1, len(self.thought.states) + 1)
        return torch.stack(energies_after(self.energy, self.thought, steps, self.thought.geometry.decided))

    def at(self, steps: int, candidates: int = 1, rule: str | None = None) -> Thought:
        """The record of the winners after ``steps`` steps among the first ``candidates``, with their last state and with their
        first and last energies."""
        states, rule = self.thought.states[:steps], rule or self.how.record_rule
        rows = torch.arange(self.rows * candidates, device=self.thought.start.device)
        cut = replace(
            self.thought,
            states=states if rule in ("settled", "visited") else states[-1:],
            energies=torch.stack((*self.thought.energies[: len(states)], self.after[steps])),
            steps=self.thought.steps.clamp(max=steps),
            final_energy=True,
        ).rows(rows)
        if rule == "decided":
            cut = judge(self.energy, cut)
        elif rule == "visited":
            cut = revisit(self.energy, cut, self.judged[: len(states), rows])
        won = choose(cut, candidates, rule)
        return replace(won, states=won.states[-1:], energies=won.energies[[0, -1]])

    def mean(self, steps: int, candidates: int, rows: Tensor) -> Tensor:
        """Average over the first ``candidates`` and the first ``steps`` of some rows, as logits (see ``ebt.mean``)."""
        taken = (state.unflatten(0, (self.how.candidates, -1)) for state in self.thought.states[:steps])
        cut = replace(self.thought, states=tuple(state[:candidates, rows].flatten(0, 1) for state in taken))
        return mean(cut, candidates, self.how.mean_from)

    def taken(self, steps: int, candidates: int) -> float:
        """Mean number of updates of the first ``candidates`` in at most ``steps`` steps."""
        return self.thought.steps[: self.rows * candidates].clamp(max=steps).double().mean().item()


def evaluations(taken: float, candidates: int, differentiates: bool = True, rule: str = "lowest") -> tuple[float, float]:
    """Forward and inner backward passes per answer. Several candidates need one more forward pass each, and all need one
    more with rule decided, or with rule visited, one for each step."""
    judged = {"decided": 1.0, "visited": taken}.get(rule, 0.0)
    return candidates * (taken + (candidates > 1) + judged), candidates * taken * differentiates


def explore(energy: Any, how: Thinking, steps: Sequence[int], conditioned: bool = False, **descent: Any) -> Explored:
    """Think once for several numbers of steps.

    Args:
        energy: See ``ebt.models.thinking.think``.
        how: Thinking options, with the largest numbers of steps and candidates.
        steps: Numbers of steps to record, ascending.
        conditioned: Whether the landscape depends on the step, so the energy before a step is not that of the last answer.
        **descent: Other arguments of ``think``.
    """
    moves = how.noise > 0 and how.candidates > 1  # noise changes states before their energies are evaluated
    shared = not conditioned and how.stops() is None and not moves
    thought = think(energy, how=how.but(rule="lowest"), **descent).candidates
    assert thought is not None
    view = thought.geometry.view
    after = thought.energies[list(steps)] if shared else energies_after(energy, thought, steps, view)
    return Explored(thought, how, dict(zip(steps, after, strict=True)), energy)
