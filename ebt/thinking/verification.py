"""Self-verification: M candidates over one shared context, the winner chosen per prediction (paper, section 3.3), or the mean
of all that was thought."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from ebt.thinking.precision import precise
from ebt.thinking.record import Thought, gather_candidates
from ebt.thinking.spaces import CandidateSpace, Simplex

Rule = Literal["lowest", "highest", "largest_drop", "majority"]
"""Which candidate wins: lowest final energy (the default everywhere), or for comparison the highest, the one whose energy fell
most, or the most frequent answer (among equals the one with the lowest energy)."""
WordRule = Literal["lowest", "highest", "largest_drop", "majority", "mean"]
"""Rules for the next token: those above, or nobody wins and the answer is ``mean``, see there."""


def choose(thought: Thought, space: CandidateSpace, candidates: int, rule: Rule = "lowest") -> Thought:
    """Keep one of ``candidates`` per prediction.

    Args:
        thought: a record of M x B rows, candidate-major, with the energy of the final state (``Descent.final_energy``).
        space: the space of its states.
        candidates: M.
        rule: see ``Rule``.

    Returns:
        the record of B rows: states, energies and steps of the winners, with ``winner`` (B, *predictions) set; the function
        evaluations are those of all M candidates.

    Raises:
        ValueError: rows not divisible by M, an unknown rule, no final energy, or 'majority' where answers are not discrete.
    """
    rows = thought.start.shape[0]
    if candidates < 1 or rows % candidates:
        raise ValueError(f"{rows} rows cannot be {candidates} candidates each: give M x B rows, candidate-major")
    if not thought.final_energy:
        raise ValueError("the energy of the final state is missing: think with final_energy=True")
    first, last = (_stack(space.per_prediction(thought.energies[i]), candidates) for i in (0, -1))
    winner = _winner(rule, first, last, _stack(thought.state, candidates), space)

    def pick(tensor: Tensor) -> Tensor:
        return gather_candidates(_stack(tensor, candidates), winner)

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
    )


def mean(thought: Thought, space: Simplex, candidates: int = 1, first: int = 1) -> Tensor:
    """The mean of everything that was thought: of the probabilities of all candidates after step ``first`` and every later one.

    Averaged iterates, for which, and not for the last one, mirror descent has its guarantee (Nemirovski and Yudin 1983). By
    Jensen's inequality its loss is at most the mean of their losses.

    Args:
        thought: a record of M x B rows, candidate-major, with all states (``Descent.keep_states``).
        space: the space of its states.
        candidates: M.
        first: the first step that counts; where fewer were taken, the last state alone does.

    Returns:
        log-probabilities (B, *P, V), which serve as logits.
    """
    states = thought.states[min(first, len(thought.states)) - 1 :]
    total: Tensor | None = None
    for state in states:
        seen = _stack(precise(space.logits(state)).log_softmax(-1), candidates).logsumexp(0)
        total = seen if total is None else torch.logaddexp(total, seen)
    assert total is not None
    return total - math.log(len(states) * candidates)


def _stack(tensor: Tensor, candidates: int) -> Tensor:
    return tensor.unflatten(0, (candidates, -1))


def _winner(rule: str, first: Tensor, last: Tensor, state: Tensor, space: CandidateSpace) -> Tensor:
    if rule == "lowest":
        return last.argmin(0)
    if rule == "highest":
        return last.argmax(0)
    if rule == "largest_drop":
        return (first - last).argmax(0)
    if rule == "majority":
        answers = torch.stack([space.decide(candidate) for candidate in state])
        same = answers.unsqueeze(0) == answers.unsqueeze(1)
        if answers.dim() > 1 + space.prediction_dims:  # all parts of a prediction must agree
            same = same.flatten(2 + space.prediction_dims).all(-1)
        votes = same.sum(0)
        return last.masked_fill(votes < votes.amax(0), float("inf")).argmin(0)
    raise ValueError(f"rule is {rule!r}: choose one of {', '.join(get_args(Rule))}")
