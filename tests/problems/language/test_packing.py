"""Packing: every token is a target once, prompts are none, and a stream gives what is packed beforehand."""

from __future__ import annotations

import warnings
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from ebt.problems.language.corpora import Document
from ebt.problems.language.packing import IGNORED, Example, PackedExamples, StreamedExamples
from ebt.problems.language.tokenizers import byte_tokenizer

BYTES = byte_tokenizer()
EOS = 256
tokens = st.lists(st.integers(0, 255), max_size=12)


def packed(documents: list[list[int]], context_length: int) -> PackedExamples:
    return PackedExamples([(None, document) for document in documents], context_length, EOS, np.uint16)


def rows(dataset: PackedExamples) -> list[Example]:
    return [dataset[index] for index in range(len(dataset))]


def same(first: list[Example], second: list[Example]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one[key], two[key]) for one, two in zip(first, second, strict=True) for key in ("input_ids", "targets")
    )


@given(st.lists(tokens, min_size=1, max_size=8), st.integers(1, 9))
def test_every_token_but_the_first_is_a_target_once(documents: list[list[int]], context_length: int) -> None:
    stream = [token for document in documents for token in [*document, EOS]]
    examples = rows(packed(documents, context_length))
    assert all(example[key].shape == (context_length,) for example in examples for key in example)
    assert all(example[key].dtype == torch.int64 for example in examples for key in example)
    pairs = [
        (int(given_token), int(target))
        for example in examples
        for given_token, target in zip(example["input_ids"], example["targets"], strict=True)
    ]
    learned = [pair for pair in pairs if pair[1] != IGNORED]
    assert learned == list(pairwise(stream))
    assert pairs[len(learned) :] == [(EOS, IGNORED)] * (len(pairs) - len(learned))  # padding, at the end alone
    assert len(pairs) - len(learned) < context_length


@pytest.mark.parametrize("dataset", [packed([[1] * 9], 4), PackedExamples([([1], [2])], 4, EOS)])
def test_index_beyond_the_end(dataset: PackedExamples) -> None:
    with pytest.raises(IndexError):
        dataset[len(dataset)]
    with pytest.raises(IndexError):
        dataset[-1]


@pytest.mark.filterwarnings("ignore:.*document.s. are longer")
@given(st.lists(st.tuples(tokens, tokens.filter(len)), min_size=1, max_size=8), st.integers(1, 20))
def test_only_the_answer_is_learned(pairs: list[tuple[list[int], list[int]]], context_length: int) -> None:
    dataset = PackedExamples(pairs, context_length, EOS, np.uint16)
    kept = [pair for pair in pairs if len(pair[0]) <= context_length]
    assert len(dataset) == len(kept)
    assert dataset.counts["skipped"] == len(pairs) - len(kept)
    assert dataset.counts["truncated"] == sum(len(prompt + answer) > context_length for prompt, answer in kept)
    for (prompt, answer), example in zip(kept, rows(dataset), strict=True):
        whole = [*prompt, *answer, EOS][: context_length + 1]
        padding = context_length + 1 - len(whole)
        assert example["input_ids"].tolist() == whole[:-1] + [EOS] * padding
        masked = max(len(prompt) - 1, 0)
        assert example["targets"].tolist() == [IGNORED] * masked + whole[masked + 1 :] + [IGNORED] * padding


def test_cut_documents_are_told() -> None:
    pairs = [([1], [2, 3]), ([1], [2] * 9), ([1] * 4, [2]), ([1] * 5, [2])]
    with pytest.warns(UserWarning, match=r"2 document\(s\) are longer than context_length=4.*1 were left out.*Raise"):
        PackedExamples(pairs, 4, EOS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PackedExamples(pairs[:1], 4, EOS)


@given(st.lists(st.text("ab", max_size=12), min_size=1, max_size=8), st.integers(1, 9))
def test_stream_packs_alike(texts: list[str], context_length: int) -> None:
    streamed = list(StreamedExamples([Document(text) for text in texts], BYTES, context_length))
    assert same(streamed, rows(packed([list(text.encode()) for text in texts], context_length)))


def test_stream_of_prompts_is_cut_alike() -> None:
    documents = [Document("b" * 9, "a" * 9), Document("bb", "a"), Document("bbbb", "aaaa"), Document("bbbb", "a")]
    with pytest.warns(UserWarning, match="left out") as told:
        streamed = list(StreamedExamples(documents, BYTES, 4))
    assert [str(warning.message)[:1] for warning in told] == ["0", "2"]  # at the first one, and all of them at the end
    pairs = [(list((document.prompt or "").encode()), list(document.text.encode())) for document in documents]
    with pytest.warns(UserWarning, match="left out"):
        assert same(streamed, rows(PackedExamples(pairs, 4, EOS)))


def test_processes_share_a_stream_evenly() -> None:
    documents = [Document("abcdefghijk"[: 3 + number % 7]) for number in range(40)]
    whole = list(StreamedExamples(documents, BYTES, 8))
    parts = [list(StreamedExamples(documents, BYTES, 8, rank, 3)) for rank in range(3)]
    assert {len(part) for part in parts} == {len(whole) // 3}
    assert same([example for turn in zip(*parts, strict=True) for example in turn], whole[: len(whole) // 3 * 3])


def test_workers_share_the_documents_of_a_stream() -> None:
    texts = [f"document {number}" for number in range(20)]
    dataset = StreamedExamples([Document(text) for text in texts], BYTES, 4)
    batches = DataLoader(dataset, batch_size=None, num_workers=2)
    learned = [token for example in batches for token in example["targets"].tolist() if token != IGNORED]
    everything = Counter([*"".join(texts).encode(), *[EOS] * 20])
    assert Counter(learned) == everything - Counter({ord("d"): 2})  # all but the first token of each worker
