"""Documents as examples of next-token prediction: packed into contexts, or as prompt and answer.

Shapes: S = context length.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from ebt.problems.language.corpora import Document
from ebt.problems.language.tokenizers import encode

IGNORED = -100
Example = dict[str, Tensor]


def make_example(tokens: Sequence[int] | npt.NDArray[Any], context_length: int, pad: int, prompt: int = 0) -> Example:
    """Inputs and next-token targets from up to S + 1 tokens.

    Args:
        tokens: 2 to S + 1 token ids.
        context_length: S.
        pad: token id that fills the inputs behind the tokens.
        prompt: number of leading tokens that are given and are no targets.

    Returns:
        `input_ids` (S,) and `targets` (S,), int64; targets of prompt and padding are -100.
    """
    window, inputs = torch.from_numpy(np.asarray(tokens, dtype=np.int64)), torch.full((context_length,), pad)
    inputs[: len(window) - 1] = window[:-1]
    targets = torch.full((context_length,), IGNORED)
    targets[max(prompt - 1, 0) : len(window) - 1] = window[max(prompt, 1) :]
    return {"input_ids": inputs, "targets": targets}


def cut_prompted(prompt: list[int], answer: list[int], length: int, counts: Counter[str]) -> list[int]:
    """Tokens of prompt and answer, at most `length`; none if the prompt leaves no room for an answer.

    Counts pairs that are cut ("truncated") or left out ("skipped").
    """
    whole = [*prompt, *answer]
    fits = len(prompt) < length
    counts["truncated" if fits else "skipped"] += len(whole) > length
    return whole[:length] if fits else []


def warn_of_cuts(counts: Counter[str], context_length: int) -> None:
    """Tell of documents that the context cut or left out."""
    if counts.total():
        warnings.warn(
            f"{counts['truncated']} document(s) are longer than context_length={context_length} and were truncated; "
            f"{counts['skipped']} were left out because the prompt alone fills the context. Raise context_length to "
            "keep them whole.",
            stacklevel=2,
        )


class TokenWindows(Dataset[Example]):
    """Examples that are windows of at most S + 1 tokens each: the base of what is packed, and of prompts with answers."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    prompts: npt.NDArray[np.int64]  # leading tokens of each window that are no targets

    def __init__(self, rows: Iterable[list[int]], context_length: int, separator: int, dtype: npt.DTypeLike) -> None:
        self.context_length, self.separator = context_length, separator
        self.tokens = np.concatenate([np.empty(0, dtype), *(np.array(row, dtype) for row in rows)])

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tokens = self.tokens[self.starts[index] : self.ends[index]]
        return make_example(tokens, self.context_length, self.separator, int(self.prompts[index]))


class PackedTokens(TokenWindows):
    """Documents joined by the separator and cut into windows that overlap by one token.

    Every token but the first is a target exactly once; the last window may be shorter.

    Args:
        documents: token ids of each document.
        context_length: S.
        separator: token id that follows each document.
        dtype: integer type that holds every id.
    """

    def __init__(
        self, documents: Iterable[list[int]], context_length: int, separator: int, dtype: npt.DTypeLike = np.uint32
    ) -> None:
        super().__init__(([*document, separator] for document in documents), context_length, separator, dtype)
        self.starts = np.arange(0, len(self.tokens) - 1, context_length)
        self.ends, self.prompts = self.starts + context_length + 1, np.zeros_like(self.starts)


class PromptedExamples(TokenWindows):
    """One window per document: prompt, answer and separator; the loss falls on answer and separator.

    Args:
        pairs: token ids of each prompt and its answer; `counts` says how many were "truncated" or "skipped".
        context_length: S.
        separator: token id that follows each answer.
        dtype: integer type that holds every id.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[list[int], list[int]]],
        context_length: int,
        separator: int,
        dtype: npt.DTypeLike = np.uint32,
    ) -> None:
        self.counts = Counter[str]()
        cut = ((cut_prompted(prompt, [*rest, separator], context_length + 1, self.counts), prompt) for prompt, rest in pairs)
        rows = [(row, len(prompt)) for row, prompt in cut if row]
        warn_of_cuts(self.counts, context_length)
        super().__init__((row for row, _ in rows), context_length, separator, dtype)
        bounds = np.cumsum([0, *(len(row) for row, _ in rows)])
        self.starts, self.ends, self.prompts = bounds[:-1], bounds[1:], np.array([length for _, length in rows])


class StreamedExamples(IterableDataset[Example]):
    """Documents tokenised and packed (or, with prompts, cut) while they are read, in the order of the source.

    Each worker takes every n-th document and packs its own. Each process reads them all and takes every n-th example
    (an incomplete last round is left out), so that all processes get as many batches: they would wait for each other
    for ever otherwise.

    Args:
        documents: a source that can be iterated again.
        tokenizer: has an end-of-text token, which follows each document.
        context_length: S.
        rank: number of this process.
        processes: number of processes that train together.
    """

    def __init__(
        self,
        documents: Iterable[Document],
        tokenizer: PreTrainedTokenizerFast,
        context_length: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.documents, self.tokenizer, self.context_length = documents, tokenizer, context_length
        self.rank, self.processes = rank, processes

    def __iter__(self) -> Iterator[Example]:
        examples = self._examples()
        while len(turn := list(islice(examples, self.processes))) == self.processes:
            yield turn[self.rank]

    def _examples(self) -> Iterator[Example]:
        length, separator, counts = self.context_length, cast(int, self.tokenizer.eos_token_id), Counter[str]()
        buffer: list[int] = []
        worker = get_worker_info()
        for document in islice(self.documents, worker.id if worker else 0, None, worker.num_workers if worker else 1):
            answer = [*encode(self.tokenizer, [document.text], document.prompt is None)[0], separator]
            if document.prompt is None:
                buffer += answer
                for start in range(0, len(buffer) - length, length):
                    yield make_example(buffer[start : start + length + 1], length, separator)
                buffer = buffer[(len(buffer) - 1) // length * length :]
                continue
            prompt, told = encode(self.tokenizer, [document.prompt])[0], counts.total()
            if tokens := cut_prompted(prompt, answer, length + 1, counts):
                yield make_example(tokens, length, separator, len(prompt))
            if counts.total() and not told:  # the first one at once: a stream may never end
                warn_of_cuts(counts, length)
        if len(buffer) > 1:
            yield make_example(buffer, length, separator)
        warn_of_cuts(counts, length)
