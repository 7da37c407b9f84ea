"""The result of a descent, and self-verification, which keeps one of M candidates per prediction (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ebt.checks import check_kind
from ebt.thinking.geometry import Geometry, Simplex
from ebt.thinking.noise import broadcastable, precise
from ebt.thinking.update import Update

Rule = Literal["lowest", "highest", "largest_drop", "settled", "decided", "visited", "majority", "mean"]
"""How the winner is chosen. lowest, highest: by final energy. largest_drop: by the decrease in energy. settled: by the smallest
change in the last update. decided: by the energy of the discrete answer (``judge``). visited: the same, among all states on
the way and not the last ones alone (``revisit``). majority: the most frequent answer, with ties broken by lowest energy.
mean: text is predicted from the average over all states (``mean``), and the record is that of ``lowest``."""


@dataclass(frozen=True)
class Evaluations:
    """Forward and inner backward passes of the network, averaged over the predictions."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True, repr=False)
class Thought:
    """The record of a descent with N rows, parts *P per row and T updates. After ``choose``, the record of the winners."""

    geometry: Geometry
    update: Update
    start: Tensor
    """State (N, *P, K) before the first update."""
    states: tuple[Tensor, ...]
    """States after each update, or only the last one if the path was not kept."""
    energies: Tensor
    """Energies per part before each update, (T, N, *P), and of the final states with ``final_energy``, (T + 1, N, *P).
    Predictions that are no longer evaluated repeat their last energy."""
    steps: Tensor
    """Number of updates made, per prediction."""
    step_size: Tensor
    """The step size, broadcastable to the states."""
    evaluations: Evaluations
    final_energy: bool = False
    """Whether the last entry of ``energies`` belongs to the final states."""
    decided: Tensor | None = None
    """Energies per part (N, *P) of the discrete answers, after ``judge``."""
    winner: Tensor | None = None
    """After self-verification: index of the winner among the M candidates, per prediction."""
    candidates: Thought | None = None
    """After self-verification: the record of all M x B rows."""
    shown: Any = None
    """Output that the model decodes from the final states: completed boards, images, tokens."""

    @property
    def state(self) -> Tensor:
        """The final states."""
        return self.states[-1]

    @cached_property
    def path(self) -> Tensor:
        """The start and the states after each update, (T + 1, N, *P, K)."""
        return torch.stack((self.start, *self.states))

    @cached_property
    def best(self) -> Tensor:
        """The final state of lowest energy for each prediction, (*P, K), with all rows as candidates for one context."""
        return self._verified.state[0] if self.winner is None else self.state

    @cached_property
    def energy(self) -> Tensor:
        """Energies of the winner per prediction, before each update and of the final state: (T + 1, B, ...) from a model,
        (T + 1, ...) from ``descend``."""
        thought = self if self.winner is not None else self._verified
        energies = torch.stack([self.geometry.per_prediction(each) for each in thought.energies])
        return energies if self.winner is not None else energies[:, 0]

    @cached_property
    def answer(self) -> Any:
        """The winner's answer: boards, tokens, images or frames. The final state if the model decodes nothing."""
        return self.best if self.shown is None else self.shown

    @cached_property
    def _verified(self) -> Thought:
        return choose(self, len(self.start))

    def returned(self, judged: Tensor) -> Thought:
        """Return each prediction to the state of the lowest ``judged`` energy, as if it had stopped there.

        Args:
            judged: Energies per part (T, N, *P) of the states after each update.

        Returns:
            The record with ``decided``.

        Raises:
            ValueError: If the path was not kept.
        """
        if len(self.states) != len(judged) or len(judged) < int(self.steps.max()):
            raise ValueError("states on the way are missing: think with keep_path=True")
        found = torch.stack([self.geometry.per_prediction(each) for each in judged]).argmin(0)
        states, energies = list(self.states), list(self.energies)
        for i in range(1, len(states)):
            there = found < i
            states[i] = torch.where(broadcastable(there, states[i].dim()), states[i - 1], states[i])
            if i + 1 < len(energies):
                energies[i + 1] = torch.where(broadcastable(there, energies[i].dim()), energies[i], energies[i + 1])
        index = broadcastable(found.unsqueeze(0), judged.dim())
        decided = judged.take_along_dim(index, 0).squeeze(0)
        steps = self.steps.minimum(found.to(self.steps) + 1)
        return replace(self, states=tuple(states), energies=torch.stack(energies), steps=steps, decided=decided)

    @property
    def moved(self) -> Tensor:
        """Change of each prediction in its last update (``Geometry.change``), (N, *predictions).

        Raises:
            ValueError: If the path was not kept.
        """
        path = (self.start, *self.states)
        if len(path) <= int(self.steps.max()):
            raise ValueError("the states before the last update are missing: think with keep_path=True")
        moved = torch.zeros(self.steps.shape, dtype=self.start.dtype, device=self.start.device)
        for step in self.steps.unique().tolist():
            change = self.geometry.change(path[step - 1], path[step])
            moved = torch.where(self.steps == step, change.to(moved.dtype), moved)
        return moved

    def objective(self, index: int) -> Tensor:
        """The function per part (N, *P) that the updates descend, at the states after ``index + 1`` updates."""
        alpha = self.step_size.squeeze(-1) if self.step_size.dim() == self.start.dim() else self.step_size
        return self.update.objective(self.geometry, self.energies[index + 1], self.states[index], alpha)

    def rows(self, index: Tensor) -> Thought:
        """The record of some rows."""
        thought = self._map(lambda tensor: tensor[index], self.step_size.dim() > 0 and self.step_size.shape[0] > 1)
        return replace(thought, winner=None if self.winner is None else self.winner[index])

    def _map(self, pick: Callable[[Tensor], Tensor], own_sizes: bool) -> Thought:
        """Apply ``pick`` to every tensor with rows."""
        return replace(
            self,
            start=pick(self.start),
            states=tuple(pick(state) for state in self.states),
            energies=torch.stack([pick(energies) for energies in self.energies]),
            decided=None if self.decided is None else pick(self.decided),
            steps=pick(self.steps),
            step_size=pick(self.step_size) if own_sizes else self.step_size,
        )

    def __repr__(self) -> str:
        taken, energy = self.steps.double().mean().item(), self.energies[-1].double().mean().item()
        passes = f"{self.evaluations.forward:.3g} + {self.evaluations.backward:.3g} passes"
        return f"Thought(states {tuple(self.start.shape)}, {taken:.3g} steps, {passes}, mean energy {energy:.4g})"


def choose(thought: Thought, candidates: int, rule: str = "lowest") -> Thought:
    """Self-verification: keep one of ``candidates`` per prediction (paper, section 3.3).

    Args:
        thought: Record of M x B rows, candidate-major, with the energy of the final states.
        candidates: Number of candidates M.
        rule: See ``Rule``.

    Returns:
        The record of the B winning rows, with ``winner`` (B, *predictions). Its evaluations count all M candidates.

    Raises:
        ValueError: If M does not divide the rows, the rule is unknown or 'mean', the final energy is missing, the rule is
            'settled' and the path was not kept, 'decided' or 'visited' without their energies, or 'majority' and answers are
            not discrete.
    """
    check_kind("thought", thought, Thought, "give the record of a descent")
    rows = thought.start.shape[0]
    if not isinstance(candidates, int) or candidates < 1 or rows % candidates:
        raise ValueError(f"{rows} rows cannot be {candidates} candidates each: give M x B rows, candidate-major")
    if not thought.final_energy:
        raise ValueError("the energy of the final state is missing: think with final_energy=True")
    winner = _winner(thought, candidates, rule)

    def pick(tensor: Tensor) -> Tensor:
        stacked = tensor.unflatten(0, (candidates, -1))
        return torch.take_along_dim(stacked, broadcastable(winner.unsqueeze(0), stacked.dim()), dim=0).squeeze(0)

    chosen = thought._map(pick, thought.step_size.dim() > 0 and thought.step_size.shape[0] == rows)
    passes = Evaluations(thought.evaluations.forward * candidates, thought.evaluations.backward * candidates)
    return replace(chosen, evaluations=passes, winner=winner, candidates=thought)


def _winner(thought: Thought, candidates: int, rule: str) -> Tensor:
    geometry = thought.geometry
    first, last = (geometry.per_prediction(thought.energies[i]).unflatten(0, (candidates, -1)) for i in (0, -1))
    if rule == "lowest":
        return last.argmin(0)
    if rule == "highest":
        return last.argmax(0)
    if rule == "largest_drop":
        return (first - last).argmax(0)
    if rule == "settled":
        return thought.moved.unflatten(0, (candidates, -1)).argmin(0)
    if rule in ("decided", "visited"):
        if thought.decided is None:
            way = "revisit" if rule == "visited" else "judge"
            raise ValueError(f"the energies of the discrete answers are missing: call ebt.thinking.{way} on the record first")
        return geometry.per_prediction(thought.decided).unflatten(0, (candidates, -1)).argmin(0)
    if rule == "mean":
        raise ValueError("rule is 'mean', which averages instead of choosing: call ebt.mean on the record")
    if rule != "majority":
        known = ", ".join(known for known in get_args(Rule) if known != "mean")
        raise ValueError(f"rule is {rule!r}: choose one of {known}")
    answers = geometry.decide(thought.state).unflatten(0, (candidates, -1))
    same = answers.unsqueeze(0) == answers.unsqueeze(1)
    if answers.dim() > 1 + geometry.prediction_dims:  # all parts of a prediction must agree
        same = same.flatten(2 + geometry.prediction_dims).all(-1)
    votes = same.sum(0)
    return last.masked_fill(votes < votes.amax(0), float("inf")).argmin(0)


def mean(thought: Thought, candidates: int = 1, first: int = 1) -> Tensor:
    """Average the probabilities over all candidates and over all steps from ``first`` on.

    The convergence guarantee of mirror descent holds for averaged iterates (Nemirovski & Yudin 1983). By Jensen's inequality,
    the loss of the average is at most the average loss.

    Args:
        thought: Record of M x B rows, candidate-major, on a vocabulary, with all states.
        candidates: Number of candidates M.
        first: First step to include. If fewer steps were taken, only the last state is used.

    Returns:
        Log-probabilities (B, *P, V), usable as logits.
    """
    check_kind("thought", thought, Thought, "give the record of a descent")
    if not isinstance(thought.geometry, Simplex):
        raise ValueError(f"{type(thought.geometry).__name__} has no probabilities to average: think on a vocabulary")
    geometry, states = thought.geometry, thought.states[min(first, len(thought.states)) - 1 :]
    total: Tensor | None = None
    for state in states:
        seen = precise(geometry.logits(state)).log_softmax(-1).unflatten(0, (candidates, -1)).logsumexp(0)
        total = seen if total is None else torch.logaddexp(total, seen)
    assert total is not None
    return total - math.log(len(states) * candidates)
