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
from ebt.thinking import Thought, choose, judge, judge_path, mean


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
        """Energies of the discrete answers after each step (``judge_path``)."""
        return judge_path(self.energy, self.thought)

    def at(self, steps: int, candidates: int = 1, rule: str | None = None) -> Thought:
        """The record of the winners after ``steps`` steps among the first ``candidates``. It holds the last state, or with
        rules settled and visited, all."""
        states, rule = self.thought.states[:steps], rule or self.how.rule
        cut = replace(
            self.thought,
            states=states if rule in ("settled", "visited") else states[-1:],
            energies=torch.stack((self.thought.energies[0], self.after[steps])),
            steps=self.thought.steps.clamp(max=steps),
            final_energy=True,
        )
        rows = torch.arange(self.rows * candidates, device=cut.start.device)
        cut = cut.rows(rows)
        if rule == "visited":
            cut = replace(cut, energies=self.thought.energies[: len(states) + 1, rows]).returned(
                self.judged[: len(states), rows]
            )
        return choose(judge(self.energy, cut) if rule == "decided" else cut, candidates, rule)

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
    after = {k: thought.energies[k] for k in steps} if shared else _after(energy, thought, steps)
    return Explored(thought, how, after, energy)


@torch.no_grad()
def _after(landscape: Any, thought: Thought, steps: Sequence[int]) -> dict[int, Tensor]:
    """Energies of the recorded states, on the landscape of their last step. Only rows that moved are evaluated."""
    after: dict[int, Tensor] = {}
    energies, previous = thought.energies[0], 0
    for step in steps:
        rows = (thought.steps > previous).reshape(len(energies), -1).any(1).nonzero().squeeze(1)
        if len(rows):
            last = min(step, len(thought.states)) - 1
            seen = thought.geometry.view(thought.states[last][rows])
            if hasattr(landscape, "select"):
                energies = energies.index_copy(0, rows, landscape.select(rows)(seen, last))
            else:
                energies = landscape(thought.geometry.view(thought.states[last]), last)
        after[step], previous = energies, step
    return after
