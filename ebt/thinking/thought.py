"""What a descent returns, and self-verification: of M candidates the winner, per prediction (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ebt.thinking.geometry import Geometry, Simplex
from ebt.thinking.noise import precise
from ebt.thinking.update import Update

Rule = Literal["lowest", "highest", "largest_drop", "majority", "mean"]
"""Which candidate wins: lowest final energy (the default), or for comparison the highest, the one whose energy fell most, or
the most frequent answer (among equals the one of lowest energy). With ``mean`` the answer of text is the mean of all that was
thought (``mean``), and the record that of the lowest."""


@dataclass(frozen=True)
class Evaluations:
    """Function evaluations, mean over the predictions: forward passes and inner backward passes of the network."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True, repr=False)
class Thought:
    """The record of a descent with N rows, parts *P of a row and T updates; after ``choose``, of the winners."""

    geometry: Geometry
    update: Update
    start: Tensor
    """State (N, *P, K) before the first update."""
    states: tuple[Tensor, ...]
    """States after each update; only the last where they were not kept."""
    energies: Tensor
    """Energies per part (T, N, *P) before each update; one more, of the final state, where it was asked for. Predictions that
    are not evaluated any more repeat the last energy that they had."""
    steps: Tensor
    """Updates that each prediction really made."""
    step_size: Tensor
    """The step size, broadcastable to the states."""
    evaluations: Evaluations
    final_energy: bool = False
    """Whether the last energies are those of the final states."""
    winner: Tensor | None = None
    """After self-verification: which of the M candidates won, per prediction."""
    candidates: Thought | None = None
    """After self-verification: the record of all M x B rows."""
    shown: Any = None
    """What a model makes of the final states: completed boards, images, tokens."""

    @property
    def state(self) -> Tensor:
        """The final states."""
        return self.states[-1]

    @cached_property
    def path(self) -> Tensor:
        """States before and after each update, (T + 1, N, *P, K)."""
        return torch.stack((self.start, *self.states))

    @cached_property
    def best(self) -> Tensor:
        """The final state of lowest energy, for each prediction, of all rows as candidates of one context: (*P, K)."""
        return self._verified.state[0] if self.winner is None else self.state

    @cached_property
    def energy(self) -> Tensor:
        """Energies of the winner before each update and of the final state, per prediction: (T + 1, B, ...) of a model's
        thought, (T + 1, ...) of the ``best`` of a descent."""
        thought = self if self.winner is not None else self._verified
        energies = torch.stack([self.geometry.per_prediction(each) for each in thought.energies])
        return energies if self.winner is not None else energies[:, 0]

    @cached_property
    def answer(self) -> Any:
        """What the winner says: boards, tokens, images or frames; the final state where a model makes nothing else of it."""
        return self.best if self.shown is None else self.shown

    @cached_property
    def _verified(self) -> Thought:
        return choose(self, len(self.start))

    def objective(self, index: int) -> Tensor:
        """The function per part (N, *P) that the updates descend, of the states after ``index + 1`` of them."""
        alpha = self.step_size.squeeze(-1) if self.step_size.dim() == self.start.dim() else self.step_size
        return self.update.objective(self.geometry, self.energies[index + 1], self.states[index], alpha)

    def rows(self, index: Tensor) -> Thought:
        """The record of some rows only."""
        thought = self._map(lambda tensor: tensor[index], self.step_size.dim() > 0 and self.step_size.shape[0] > 1)
        return replace(thought, winner=None if self.winner is None else self.winner[index])

    def _map(self, pick: Callable[[Tensor], Tensor], own_sizes: bool) -> Thought:
        """A record of other rows."""
        return replace(
            self,
            start=pick(self.start),
            states=tuple(pick(state) for state in self.states),
            energies=torch.stack([pick(energies) for energies in self.energies]),
            steps=pick(self.steps),
            step_size=pick(self.step_size) if own_sizes else self.step_size,
        )

    def __repr__(self) -> str:
        taken, energy = self.steps.double().mean().item(), self.energies[-1].double().mean().item()
        passes = f"{self.evaluations.forward:.3g} + {self.evaluations.backward:.3g} passes"
        return f"Thought(states {tuple(self.start.shape)}, {taken:.3g} steps, {passes}, mean energy {energy:.4g})"


def choose(thought: Thought, candidates: int, rule: str = "lowest") -> Thought:
    """Keep one of ``candidates`` per prediction (paper, section 3.3).

    Args:
        thought: a record of M x B rows, candidate-major, with the energy of the final state.
        candidates: M.
        rule: see ``Rule``.

    Returns:
        the record of B rows with ``winner`` (B, *predictions); its evaluations are those of all M candidates.

    Raises:
        ValueError: rows not divisible by M, an unknown rule, no final energy, or 'majority' where answers are not discrete.
    """
    rows = thought.start.shape[0]
    if candidates < 1 or rows % candidates:
        raise ValueError(f"{rows} rows cannot be {candidates} candidates each: give M x B rows, candidate-major")
    if not thought.final_energy:
        raise ValueError("the energy of the final state is missing: think with final_energy=True")
    winner = _winner(thought, candidates, rule)

    def pick(tensor: Tensor) -> Tensor:
        stacked = tensor.unflatten(0, (candidates, -1))
        index = winner.reshape(1, *winner.shape, *([1] * (stacked.dim() - 1 - winner.dim())))
        return torch.take_along_dim(stacked, index, dim=0).squeeze(0)

    chosen = thought._map(pick, thought.step_size.dim() > 0 and thought.step_size.shape[0] == rows)
    passes = Evaluations(thought.evaluations.forward * candidates, thought.evaluations.backward * candidates)
    return replace(chosen, evaluations=passes, winner=winner, candidates=thought)


def _winner(thought: Thought, candidates: int, rule: str) -> Tensor:
    geometry = thought.geometry
    first, last = (geometry.per_prediction(thought.energies[i]).unflatten(0, (candidates, -1)) for i in (0, -1))
    if rule in ("lowest", "mean"):
        return last.argmin(0)
    if rule == "highest":
        return last.argmax(0)
    if rule == "largest_drop":
        return (first - last).argmax(0)
    if rule != "majority":
        raise ValueError(f"rule is {rule!r}: choose one of {', '.join(get_args(Rule))}")
    answers = geometry.decide(thought.state).unflatten(0, (candidates, -1))
    same = answers.unsqueeze(0) == answers.unsqueeze(1)
    if answers.dim() > 1 + geometry.prediction_dims:  # all parts of a prediction must agree
        same = same.flatten(2 + geometry.prediction_dims).all(-1)
    votes = same.sum(0)
    return last.masked_fill(votes < votes.amax(0), float("inf")).argmin(0)


def mean(thought: Thought, candidates: int = 1, first: int = 1) -> Tensor:
    """The mean of the probabilities of all candidates after step ``first`` and every later one.

    Averaged iterates, for which mirror descent has its guarantee (Nemirovski & Yudin 1983). By Jensen's inequality its loss is
    at most the mean of their losses.

    Args:
        thought: a record of M x B rows, candidate-major, with all states, on a vocabulary.
        candidates: M.
        first: the first step that counts; where fewer were taken, the last state alone does.

    Returns:
        log-probabilities (B, *P, V), which serve as logits.
    """
    geometry, states = thought.geometry, thought.states[min(first, len(thought.states)) - 1 :]
    assert isinstance(geometry, Simplex)
    total: Tensor | None = None
    for state in states:
        seen = precise(geometry.logits(state)).log_softmax(-1).unflatten(0, (candidates, -1)).logsumexp(0)
        total = seen if total is None else torch.logaddexp(total, seen)
    assert total is not None
    return total - math.log(len(states) * candidates)
