"""One descent that serves every number of steps up to its own, and every number of candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ebt.errors import InputError
from ebt.models.thinking import Thinking, think
from ebt.thinking import Thought, choose, mean


def check_counts(name: str, counts: Sequence[int]) -> list[int]:
    """The counts, sorted and each once.

    Raises:
        InputError: none at all, or one below 1.
    """
    if not counts or min(counts) < 1:
        raise InputError(f"{name} is {list(counts)}: give one or more whole numbers, each at least 1.")
    return sorted(set(counts))


@dataclass(frozen=True)
class Explored:
    """A descent of M x B rows with all states, and the energies after those numbers of steps that are asked for."""

    thought: Thought
    """The record of all rows, candidate-major."""
    how: Thinking
    """With the largest numbers of steps and candidates."""
    after: dict[int, Tensor]
    """Energies per part (M x B, *P) of the states after so many steps."""

    @property
    def first(self) -> Thought:
        """The record of the first candidates."""
        return self.thought.rows(torch.arange(self.rows, device=self.thought.start.device))

    @property
    def rows(self) -> int:
        """B, the contexts."""
        return len(self.thought.start) // self.how.candidates

    def at(self, steps: int, candidates: int = 1, rule: str | None = None) -> Thought:
        """What thinking for ``steps`` steps with the first ``candidates`` gives: the record of the winners, one state."""
        states = self.thought.states
        cut = replace(
            self.thought,
            states=(states[min(steps, len(states)) - 1],),
            energies=torch.stack((self.thought.energies[0], self.after[steps])),
            steps=self.thought.steps.clamp(max=steps),
            final_energy=True,
        )
        rows = torch.arange(self.rows * candidates, device=cut.start.device)
        return choose(cut.rows(rows), candidates, rule or self.how.rule)

    def mean(self, steps: int, candidates: int, rows: Tensor) -> Tensor:
        """The mean of what the first ``candidates`` thought about some rows until ``steps``, as logits."""
        taken = (state.unflatten(0, (self.how.candidates, -1)) for state in self.thought.states[:steps])
        cut = replace(self.thought, states=tuple(state[:candidates, rows].flatten(0, 1) for state in taken))
        return mean(cut, candidates, self.how.mean_from)

    def taken(self, steps: int, candidates: int) -> float:
        """Mean number of updates of the first ``candidates`` when ``steps`` are allowed."""
        return self.thought.steps[: self.rows * candidates].clamp(max=steps).double().mean().item()


def evaluations(taken: float, candidates: int) -> tuple[float, float]:
    """Forward and inner backward passes for an answer; choosing among candidates takes one more forward pass each."""
    return candidates * (taken + (candidates > 1)), candidates * taken


def explore(energy: Any, how: Thinking, steps: Sequence[int], conditioned: bool = False, **descent: Any) -> Explored:
    """Think once, for the largest of ``steps``.

    Args:
        energy: as for ``ebt.models.thinking.think``.
        how: how to think, with the largest numbers of steps and candidates.
        steps: the numbers of steps to record, ascending.
        conditioned: the landscape changes with the step, so that the energy before a step is not that of an answer.
        **descent: the other arguments of ``think``.
    """
    moves = how.noise > 0 and how.candidates > 1  # before each step, noise moves the state that was the answer
    shared = not conditioned and how.stops() is None and not moves
    thought = think(energy, how=how.but(rule="lowest"), **descent).candidates
    assert thought is not None
    return Explored(thought, how, {k: thought.energies[k] for k in steps} if shared else _after(energy, thought, steps))


@torch.no_grad()
def _after(landscape: Any, thought: Thought, steps: Sequence[int]) -> dict[int, Tensor]:
    """Energies of the recorded states, on the landscape of the step that led there; of rows that have moved only."""
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
