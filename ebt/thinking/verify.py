"""Self-verification: M candidates of each context, the winner chosen per prediction (paper, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ebt.thinking.geometry import Simplex
from ebt.thinking.noise import precise
from ebt.thinking.thought import Thought

Rule = Literal["lowest", "highest", "largest_drop", "majority", "mean"]
"""Which candidate wins: lowest final energy (the default), or for comparison the highest, the one whose energy fell most, or
the most frequent answer (among equals the one of lowest energy). With ``mean`` the answer of text is the mean of all that was
thought (``mean``), and the record that of the lowest."""


def choose(thought: Thought, candidates: int, rule: str = "lowest") -> Thought:
    """Keep one of ``candidates`` per prediction.

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

    own_sizes = thought.step_size.dim() > 0 and thought.step_size.shape[0] == rows
    return replace(
        thought,
        start=pick(thought.start),
        states=tuple(pick(state) for state in thought.states),
        energies=torch.stack([pick(energy) for energy in thought.energies]),
        steps=pick(thought.steps),
        step_size=pick(thought.step_size) if own_sizes else thought.step_size,
        evaluations=thought.evaluations.times(candidates),
        winner=winner,
        candidates=thought,
    )


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
    geometry, total = thought.geometry, None
    assert isinstance(geometry, Simplex)
    states = thought.states[min(first, len(thought.states)) - 1 :]
    for state in states:
        seen = precise(geometry.logits(state)).log_softmax(-1).unflatten(0, (candidates, -1)).logsumexp(0)
        total = seen if total is None else torch.logaddexp(total, seen)
    assert total is not None
    return total - math.log(len(states) * candidates)
