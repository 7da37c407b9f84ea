"""Language: nats per token against thinking steps and candidates.

Letters: B rows, S positions, M candidates, V words, T steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.descents import Recorded, SelectableLandscape, check_counts, descend, evaluations, thinks
from ebt.evaluation.detection import auroc
from ebt.evaluation.results import Curve, LanguagePoint, Progress
from ebt.thinking import IGNORED, RestartSimplex, Simplex, Thought, WordRule, alarms

ENTRIES = 2**26
"""Logits are held for so many entries at a time (256 MB), whatever the batch."""


class LanguageThinker(Protocol):
    """What is asked of a language model that thinks (``ebt.hub``: ``EBTForCausalLM``)."""

    config: Any

    def alpha(self) -> Tensor: ...

    def noise(self, rows: int, candidates: int, /) -> Tensor: ...

    device: torch.device

    def landscape(self, input_ids: Tensor, /) -> SelectableLandscape: ...

    def space(self) -> Simplex: ...

    def start(self, rows: int, length: int, generator: torch.Generator | None = None, /) -> Tensor: ...

    def think(
        self, input_ids: Tensor, /, *, steps: int | None = None, candidates: int | None = None, seed: int | None = None
    ) -> Thought: ...


@torch.no_grad()
def language_curve(
    model: Any,
    batches: Iterable[Mapping[str, Tensor]],
    steps: Sequence[int],
    candidates: Sequence[int] = (1,),
    rule: WordRule = "lowest",
    seed: int = 0,
    progress: Progress | None = None,
) -> Curve[LanguagePoint]:
    """Quality of next-token predictions for every number of steps and candidates, on the same tokens.

    One descent a batch, of the largest number of steps and candidates, serves all of them: a smaller number of candidates are
    the first ones. Winners are chosen per token, by their energy after that number of steps. All states are kept (D numbers, V
    in spaces that are not compact, per token, step and candidate): let batches be small in these.

    Args:
        model: an ``EBTForCausalLM``, or its feed-forward twin, which gives a single point.
        batches: dicts of ``input_ids`` (B, S) and ``targets`` (B, S), the next tokens, -100 where none is scored.
        steps, candidates: which numbers to measure.
        rule: how winners are chosen; with ``mean`` nobody wins, and the answer is the mean of what all candidates thought from
            step ``config.mean_from`` on (``ebt.thinking.mean``); the energies are still those of the lowest.
        seed: of the random starts.
        progress: called with the rows done after each batch.

    Raises:
        InputError: numbers below 1, or batches without a scored token.
    """
    steps, candidates = check_counts("steps", steps), check_counts("candidates", candidates)
    tally = _Tally()
    generator = torch.Generator(model.device).manual_seed(seed)
    for batch in batches:
        inputs, targets = batch["input_ids"].to(model.device), batch["targets"].to(model.device)
        if thinks(model):
            _think_batch(model, inputs, targets, steps, candidates, rule, generator, tally)
        else:
            tally.add_logits(model(input_ids=inputs).logits, targets)
        if progress:
            progress(tally.rows, None)
    if not tally.rows or not tally.scored:
        raise InputError("The batches hold no token to score: give text of at least two tokens.")
    curve = Curve("language", "ebt", tally.points(), tally.rows, tally.scored, rule, None, seed, *tally.ends())
    return curve if thinks(model) else Curve("language", "feed-forward", curve.points, curve.rows, curve.scored, seed=seed)


def _think_batch(
    model: LanguageThinker,
    inputs: Tensor,
    targets: Tensor,
    steps: Sequence[int],
    candidates: Sequence[int],
    rule: WordRule,
    generator: torch.Generator,
    tally: _Tally,
) -> None:
    space, most, rows = model.space(), max(candidates), len(inputs)
    start = model.start(most * rows, inputs.shape[1], generator)
    conditioned = model.config.conditioning != "none"
    noise = model.noise(rows, most).unsqueeze(1).expand(-1, inputs.shape[1])
    landscape, alpha = model.landscape(inputs), model.alpha()
    record = descend(landscape, space, start, alpha, steps, most, conditioned=conditioned, noise=noise, generator=generator)
    if not tally.rows:
        first = slice(0, rows_at_once(space, inputs.shape[1]))
        tally.alarms = alarms(record.thought.rows(torch.arange(rows, device=inputs.device)[first]), space)
    scored = targets != IGNORED
    tally.start_energy += record.thought.energies[0, :rows][scored].double().sum().item()
    for step in steps:
        for count in candidates:
            tally.add_winners(step, count, record, rule, targets, model.config.mean_from)
    tally.rows += rows
    tally.scored += int(scored.sum())


def rows_at_once(space: Simplex, length: int) -> int:
    """How many rows of V-sized logits to hold at a time."""
    return max(1, ENTRIES // (length * len(space.table)))


@dataclass
class _Sums:
    """Per row: summed losses and scored tokens; per token: energies and whether the prediction is wrong."""

    loss: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    energy: list[Tensor] = field(default_factory=list)
    wrong: list[Tensor] = field(default_factory=list)
    objective: float = 0.0

    def add(self, loss: Tensor, predicted: Tensor, targets: Tensor) -> None:
        scored = targets != IGNORED
        self.loss.append(loss.double().sum(1).cpu())
        self.tokens.append(scored.sum(1).cpu())
        self.wrong.append((predicted != targets)[scored].cpu())

    def quality(self) -> tuple[float, float | None, float, float]:
        """Nats per token, their standard error over rows (of a ratio), perplexity, accuracy."""
        loss, tokens = torch.cat(self.loss), torch.cat(self.tokens)
        n, nats = len(loss), (loss.sum() / tokens.sum()).item()
        residual = (loss - nats * tokens).square().sum().item()
        error = math.sqrt(residual * n / (n - 1)) / tokens.sum().item() if n > 1 else None
        accuracy = 1 - torch.cat(self.wrong).double().mean().item()
        return nats, error, math.exp(nats) if nats < 700 else math.inf, accuracy


class _Tally:
    """What is summed up over batches."""

    def __init__(self) -> None:
        self.rows = self.scored = 0
        self.start_energy = 0.0
        self.alarms: list[str] = []
        self.sums: dict[tuple[int, int], _Sums] = {}

    def add_winners(self, step: int, count: int, record: Recorded, rule: WordRule, targets: Tensor, first: int) -> None:
        sums, space = self.sums.setdefault((step, count), _Sums()), record.space
        won = record.at(step, count, "lowest" if rule == "mean" else rule)
        assert isinstance(space, Simplex)
        plain = RestartSimplex(space.prediction_dims, space.table)  # of means, which are logits
        scored = targets != IGNORED
        for rows in torch.arange(len(targets), device=targets.device).split(rows_at_once(space, targets.shape[1])):
            part, aim = won.rows(rows), targets[rows]
            said, where = (record.mean(step, count, first, rows), plain) if rule == "mean" else (part.state, space)
            sums.add(where.loss(said, aim), where.decide(said), aim)
            sums.objective += _objective(space, part)[scored[rows]].double().sum().item()
        sums.energy.append(won.energies[-1][scored].cpu())

    def add_logits(self, logits: Tensor, targets: Tensor) -> None:
        loss = F.cross_entropy(logits.mT, targets, ignore_index=IGNORED, reduction="none")
        self.sums.setdefault((1, 1), _Sums()).add(loss, logits.argmax(-1), targets)
        self.rows += len(targets)
        self.scored += int((targets != IGNORED).sum())

    def ends(self) -> tuple[float, tuple[str, ...]]:
        return self.start_energy / self.scored, tuple(self.alarms)

    def points(self) -> list[LanguagePoint]:
        return [self._point(steps, candidates, sums) for (steps, candidates), sums in self.sums.items()]

    def _point(self, steps: int, candidates: int, sums: _Sums) -> LanguagePoint:
        nats, error, perplexity, accuracy = sums.quality()
        if not sums.energy:
            return LanguagePoint(1, 1, None, None, 1.0, 0.0, nats, error, perplexity, accuracy, None)
        energy = torch.cat(sums.energy)
        mean, objective = energy.double().mean().item(), sums.objective / self.scored
        known, spent = auroc(energy, torch.cat(sums.wrong)), evaluations(steps, candidates)
        return LanguagePoint(steps, candidates, mean, objective, *spent, nats, error, perplexity, accuracy, known)


def _objective(space: Simplex, thought: Thought) -> Tensor:
    return space.objective(thought.energies[-1], thought.state, thought.step_size)
