"""Prompts are scored in parts, which bounds the memory of large vocabularies."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from small_models import BYTES, language_ebt, language_twin

from ebt.problems.language.tokenizers import byte_tokenizer
from ebt.serving.engine import Engine, Piece, Row, Served
from ebt.serving.protocol import Limits

PROMPTS = ([5, 80, 70, 9, 200, 31, 32, 33, 90, 12], [7, 8], [44, 250, 3, 1, 17])


def scored(model: Any, limit: int, **options: Any) -> tuple[list[Any], list[int]]:
    """The tokens of the prompts, and the sizes of the logits that were computed."""
    pieces: queue.Queue[Piece] = queue.Queue()
    sizes: list[int] = []
    hook = model.register_forward_hook(lambda module, given, output: sizes.append(output.logits.numel()))
    engine = Engine({"model": Served(model, byte_tokenizer())}, Limits(scores=limit))
    shared = {"logprobs": 3, "echo": True, "energies": hasattr(model, "thinking"), "options": options}
    engine.submit([Row(i, "model", ids, 0, pieces.put, **shared) for i, ids in enumerate(PROMPTS)])
    found = [pieces.get(timeout=60) for _ in range(2 * len(PROMPTS))]  # the tokens of each, and its end
    engine.close()
    hook.remove()
    assert [piece.error for piece in found] == [None] * len(found)
    tokens = sorted((piece.index, piece.tokens) for piece in found if piece.tokens)
    assert [[token.id for token in each] for _, each in tokens] == [*PROMPTS]
    told = [[value for token in each for value in (token.logprob, token.energy)] for _, each in tokens]
    best = [[index for token in each for index, _ in token.top] for _, each in tokens]
    return [*zip(told, best, strict=True)], sizes


@pytest.mark.parametrize(("candidates", "conditioning"), [(1, "none"), (2, "none"), (2, "prefix")])
def test_parts_of_a_prompt_score_as_the_whole(candidates: int, conditioning: str) -> None:
    model, options = language_ebt(conditioning=conditioning), {"steps": 2, "candidates": candidates, "seed": 3}
    whole, sizes = scored(model, 10**9, **options)
    assert sizes == [len(PROMPTS) * 9 * BYTES]
    limit = len(PROMPTS) * candidates * BYTES * 2
    parts, sizes = scored(model, limit, **options)
    assert max(sizes) * candidates <= limit
    assert len(sizes) == 5
    same(parts, whole)


def test_a_prompt_is_scored_by_single_positions_if_need_be() -> None:
    whole, _ = scored(language_twin(), 10**9)
    parts, sizes = scored(language_twin(), 1)
    assert sizes == [len(PROMPTS) * BYTES] * 9
    same(parts, whole)


def same(parts: list[Any], whole: list[Any]) -> None:
    for (told, best), (expected, expected_best) in zip(parts, whole, strict=True):
        assert told == [value if value is None else pytest.approx(value, abs=1e-9) for value in expected]
        assert best == expected_best
        assert sum(value is not None for value in told) >= len(best) // 3
