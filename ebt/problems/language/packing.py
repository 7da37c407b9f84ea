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
    window = np.asarray(tokens, dtype=np.int64)
    inputs = np.full(context_length, pad, dtype=np.int64)
    targets = np.full(context_length, IGNORED, dtype=np.int64)
    inputs[: len(window) - 1] = window[:-1]
    targets[: len(window) - 1] = window[1:]
    targets[: max(prompt - 1, 0)] = IGNORED
    return {"input_ids": torch.from_numpy(inputs), "targets": torch.from_numpy(targets)}


def cut_prompted(
    pairs: Iterable[tuple[list[int], list[int]]], context_length: int, separator: int, counts: Counter[str]
) -> Iterator[tuple[list[int], int]]:
    """Tokens (at most S + 1) and length of the prompt for each pair of prompt and answer.

    Counts pairs that are cut to the context ("truncated"), and those left out because the prompt alone fills it
    ("skipped").
    """
    for prompt, answer in pairs:
        tokens = [*prompt, *answer, separator]
        if len(prompt) > context_length:
            counts["skipped"] += 1
            continue
        counts["truncated"] += len(tokens) > context_length + 1
        yield tokens[: context_length + 1], len(prompt)


def warn_of_cuts(counts: Counter[str], context_length: int) -> None:
    """Tell of documents that the context cut or left out."""
    if counts["truncated"] or counts["skipped"]:
        warnings.warn(
            f"{counts['truncated']} document(s) are longer than context_length={context_length} and were truncated; "
            f"{counts['skipped']} were left out because the prompt alone fills the context. Raise context_length to "
            "keep them whole.",
            stacklevel=2,
        )


class PackedTokens(Dataset[Example]):
    """Documents joined by the separator and cut into rows of S + 1 tokens that overlap by one.

    Every token but the first is a target exactly once; the last row is padded (inputs with the separator, targets
    with -100).

    Args:
        documents: token ids of each document.
        context_length: S.
        separator: token id that follows each document.
        dtype: integer type that holds every id.
    """

    def __init__(
        self, documents: Iterable[list[int]], context_length: int, separator: int, dtype: npt.DTypeLike = np.uint32
    ) -> None:
        joined = [np.array([*document, separator], dtype=dtype) for document in documents]
        self.tokens = np.concatenate([np.empty(0, dtype), *joined])
        self.context_length = context_length
        self.separator = separator

    def __len__(self) -> int:
        return -(-max(len(self.tokens) - 1, 0) // self.context_length)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.context_length
        return make_example(self.tokens[start : start + self.context_length + 1], self.context_length, self.separator)


class PromptedExamples(Dataset[Example]):
    """One row per document: prompt, answer and separator, padded to S; the loss falls on answer and separator.

    Args:
        pairs: token ids of each prompt and its answer.
        context_length: S. What is longer is truncated; `counts` says how many were "truncated" or "skipped".
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
        self.counts: Counter[str] = Counter()
        rows = list(cut_prompted(pairs, context_length, separator, self.counts))
        self.tokens = np.concatenate([np.empty(0, dtype), *(np.array(tokens, dtype) for tokens, _ in rows)])
        self.ends = np.cumsum([len(tokens) for tokens, _ in rows], dtype=np.int64)
        self.prompts = np.array([prompt for _, prompt in rows], dtype=np.int64)
        warn_of_cuts(self.counts, context_length)
        self.context_length = context_length
        self.separator = separator

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = self.ends[index - 1] if index else 0
        tokens = self.tokens[start : self.ends[index]]
        return make_example(tokens, self.context_length, self.separator, int(self.prompts[index]))


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
        self.documents = documents
        self.tokenizer = tokenizer
        self.context_length = context_length
        self.rank = rank
        self.processes = processes

    def __iter__(self) -> Iterator[Example]:
        examples = self._examples()
        while len(turn := list(islice(examples, self.processes))) == self.processes:
            yield turn[self.rank]

    def _examples(self) -> Iterator[Example]:
        separator, counts = cast(int, self.tokenizer.eos_token_id), Counter[str]()
        buffer: list[int] = []
        for document in self._share():
            if document.prompt is None:
                buffer += [*self._encode(document.text), separator]
                for start in range(0, len(buffer) - self.context_length, self.context_length):
                    window = buffer[start : start + self.context_length + 1]
                    yield make_example(window, self.context_length, separator)
                buffer = buffer[(len(buffer) - 1) // self.context_length * self.context_length :]
                continue
            pair, before = (self._encode(document.prompt), self._encode(document.text)), counts.total()
            for tokens, prompt in cut_prompted([pair], self.context_length, separator, counts):
                yield make_example(tokens, self.context_length, separator, prompt)
            if counts.total() and not before:  # the first one at once: a stream may never end
                warn_of_cuts(counts, self.context_length)
        if len(buffer) > 1:
            yield make_example(buffer, self.context_length, separator)
        warn_of_cuts(counts, self.context_length)

    def _share(self) -> Iterator[Document]:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        for index, document in enumerate(self.documents):
            if index % workers == number:
                yield document

    def _encode(self, text: str) -> list[int]:
        return encode(self.tokenizer, [text])[0]
