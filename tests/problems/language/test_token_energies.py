from __future__ import annotations

import math

import pytest
import torch
from small_models import CONTEXT, language_ebt
from tokenizers.processors import TemplateProcessing

from ebt.errors import InputError
from ebt.problems.language.energies import token_energies
from ebt.problems.language.tokenizers import byte_tokenizer

TEXT = "naïve\nfox"


def test_energies_and_probabilities_are_those_of_thinking() -> None:
    model, tokenizer = language_ebt(), byte_tokenizer()
    result = token_energies(model, tokenizer, TEXT, steps=3, seed=4)
    ids = list(TEXT.encode())
    thought = model.think(torch.tensor([[256, *ids[:-1]]]), steps=3, candidates=1, seed=4)
    p = model.geometry().logits(thought.state).softmax(-1)[0]
    assert (result.ids, len(result.tokens), len(result.predicted)) == (ids, len(ids), len(ids))
    assert result.energies == thought.energies[:, 0].tolist()
    assert result.probability == pytest.approx([p[i, token].item() for i, token in enumerate(ids)], rel=1e-9)
    assert result.nats == pytest.approx([-math.log(value) for value in result.probability], rel=1e-9)
    assert result.tokens == ["n", "a", "<C3>", "<AF>", "v", "e", "\n", "f", "o", "x"]
    best = int(p[0].argmax())
    assert result.predicted[0] == (chr(best) if best < 128 else f"<{best:02X}>" if best < 256 else "<|endoftext|>")


def test_texts_begin_as_training_documents_do() -> None:
    """With the end-of-text token, and then what the tokenizer puts in front of a text."""
    model, tokenizer = language_ebt(), byte_tokenizer()
    template = TemplateProcessing(single="z $A", special_tokens=[("z", ord("z"))])
    tokenizer.backend_tokenizer.post_processor = template
    result, ids = token_energies(model, tokenizer, "fox", steps=2), list(b"fox")
    thought = model.think(torch.tensor([[256, ord("z"), *ids[:-1]]]), steps=2, candidates=1)
    assert result.ids == ids
    assert result.energies[-1] == pytest.approx(thought.energies[-1, 0, 1:].tolist(), abs=1e-9)
    with pytest.raises(InputError, match=f"1 to {CONTEXT - 1}"):
        token_energies(model, tokenizer, "x" * CONTEXT, steps=2)


def test_a_token_does_not_see_itself_or_what_follows() -> None:
    model, tokenizer = language_ebt(), byte_tokenizer()
    one, other = (token_energies(model, tokenizer, text, steps=2) for text in ("the fox", "the end"))
    assert [row[:5] for row in one.energies] == [pytest.approx(row[:5]) for row in other.energies]
    assert one.energies[-1][5] != pytest.approx(other.energies[-1][5])


@pytest.mark.parametrize(
    ("text", "steps", "message"), [("", 2, "0 tokens"), ("x" * (CONTEXT + 1), 2, "context"), ("x", 0, "steps")]
)
def test_bad_input_is_named(text: str, steps: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        token_energies(language_ebt(), byte_tokenizer(), text, steps)
