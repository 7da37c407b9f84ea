"""Language metrics: nats per token against thinking steps and candidates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.measure import Scorer, Tally, measure
from ebt.evaluation.results import Curve, Measure, Point
from ebt.evaluation.statistics import auroc
from ebt.models.exploration import Explored
from ebt.thinking import IGNORED, Simplex, Thought

MEASURE = Measure("nats", "cross entropy (nats per token)", "token")


@dataclass(frozen=True)
class LanguagePoint(Point):
    """Quality of next-token predictions. All means are over scored tokens."""

    nats: float
    """Cross entropy per token: the sum over all scored tokens divided by their number."""
    nats_error: float | None
    """Standard error of ``nats`` over rows. ``None`` for a single row."""
    perplexity: float
    """``exp(nats)``."""
    accuracy: float
    auroc: float | None
    """How well the energy of a token separates wrong predictions from right ones (see ``auroc``)."""


ENTRIES = 2**26
"""Maximum number of logits in memory at a time (256 MB), for any batch size."""


def language_curve(
    model: Any, batches: Iterable[Mapping[str, Tensor]], steps: Sequence[int], candidates: Sequence[int] = (1,), **options: Any
) -> Curve[LanguagePoint]:
    """Measure next-token predictions for every number of steps and candidates.

    With ``rule="mean"`` there is no winner. The answer is the mean over all candidates and the steps from ``mean_from`` on, and
    the energies are the lowest ones.

    Args:
        model: An ``EBTForCausalLM``, or its feed-forward twin, which gives a single point.
        batches: Dicts of ``input_ids`` (B, S) and ``targets`` (B, S), the next tokens, -100 where not scored.
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure.
        **options: See ``ebt.evaluation.measure.measure``.

    Raises:
        InputError: If a number is below 1, or the batches have no scored tokens.
    """
    return measure(model, _Tokens(), batches, steps, candidates, **options)


def check_batch(batch: Any, vocabulary: int) -> Mapping[str, Tensor]:
    """Return a batch of ``input_ids`` and ``targets`` (B, S).

    Raises:
        InputError: If it is something else, or has tokens that are not in a vocabulary of that size.
    """
    parts: list[Any] = [batch.get(name) for name in ("input_ids", "targets")] if isinstance(batch, Mapping) else [None]
    if any(not isinstance(part, Tensor) or part.dim() != 2 or part.shape != parts[0].shape for part in parts):
        found = {name: tuple(getattr(part, "shape", ())) for name, part in batch.items()} if len(parts) > 1 else type(batch)
        raise InputError(f"a batch is {found}: give a dict of input_ids and targets, whole numbers of shape (B, S)")
    words, targets = parts
    for name, tokens in (("input_ids", words), ("targets", targets[targets != IGNORED])):
        if tokens.is_floating_point() or (tokens.numel() and not 0 <= tokens.min() <= tokens.max() < vocabulary):
            raise InputError(f"{name} are not tokens of the vocabulary (0 to {vocabulary - 1}): use the tokenizer of the model")
    return batch


class _Tokens(Scorer[LanguagePoint]):
    task = "language"
    measure = MEASURE

    def context(self, batch: Mapping[str, Tensor], device: torch.device) -> Tensor:
        return batch["input_ids"].to(device)

    def rows(self, batch: Mapping[str, Tensor]) -> int:
        return len(batch["input_ids"])

    def counts(self, batch: Mapping[str, Tensor]) -> Tensor:
        return batch["targets"] != IGNORED

    def scored(self, batch: Mapping[str, Tensor]) -> int:
        return int(self.counts(batch).sum())

    def score(
        self, batch: Mapping[str, Tensor], won: Thought, found: Explored, steps: int, candidates: int
    ) -> dict[str, Tensor]:
        geometry, targets = won.geometry, batch["targets"].to(won.state.device)
        assert isinstance(geometry, Simplex)
        losses, words = list[Tensor](), list[Tensor]()
        at_once = max(1, ENTRIES // (targets.shape[1] * len(geometry.table)))
        for rows in torch.arange(len(targets), device=targets.device).split(at_once):
            if found.how.rule == "mean":
                logits = found.mean(steps, candidates, rows)
                losses.append(_cross_entropy(logits, targets[rows]))
                words.append(logits.argmax(-1))
            else:
                losses.append(geometry.loss(won.state[rows], targets[rows]))
                words.append(geometry.decide(won.state[rows]))
        return _worth(torch.cat(losses), torch.cat(words), targets)

    def passes(
        self, model: Any, batch: Mapping[str, Tensor], steps: Sequence[int]
    ) -> Iterable[tuple[int, float, dict[str, Tensor]]]:
        targets = batch["targets"].to(model.device)
        logits = model(input_ids=self.context(batch, model.device)).logits
        yield 1, 1.0, _worth(_cross_entropy(logits, targets), logits.argmax(-1), targets)

    def point(self, common: dict[str, Any], tally: Tally) -> LanguagePoint:
        loss, tokens = tally["loss"], tally["tokens"]
        n, nats = len(loss), (loss.sum() / tokens.sum()).item()
        residual = (loss - nats * tokens).square().sum().item()
        error = math.sqrt(residual * n / (n - 1)) / tokens.sum().item() if n > 1 else None
        known = auroc(tally["energy"], tally["wrong"]) if "energy" in tally else None
        perplexity = math.exp(nats) if nats < 700 else math.inf
        return LanguagePoint(
            **common, nats=nats, nats_error=error, perplexity=perplexity, accuracy=1 - tally.mean("wrong"), auroc=known
        )


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.mT, targets, ignore_index=IGNORED, reduction="none")


def _worth(losses: Tensor, words: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Summed losses and scored tokens per row, and whether the prediction is wrong per token."""
    scored = targets != IGNORED
    return {"loss": losses.double().sum(1), "tokens": scored.sum(1), "wrong": (words != targets)[scored]}
