"""Examples of next-token prediction from documents: packed into contexts, or as prompt and answer.

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
Encoded = tuple[list[int] | None, list[int]]
"""Token ids of a document: of its prompt, if any, and of its text."""


def encoded(tokenizer: PreTrainedTokenizerFast, documents: Sequence[Document]) -> Iterator[Encoded]:
    """Encode documents as token ids. Either all of them have a prompt, or none."""
    prompts = [document.prompt for document in documents if document.prompt is not None]
    texts = encode(tokenizer, [document.text for document in documents], begin=not prompts)
    return zip(encode(tokenizer, prompts) if prompts else [None] * len(texts), texts, strict=True)


def make_example(tokens: Sequence[int] | npt.NDArray[Any], context_length: int, pad: int, prompt: int = 0) -> Example:
    """Make inputs and next-token targets from up to S + 1 tokens.

    Args:
        tokens: 2 to S + 1 token ids.
        context_length: S.
        pad: Token id that pads the inputs.
        prompt: Number of leading tokens that are given and not targets.

    Returns:
        `input_ids` (S,) and `targets` (S,), int64. Targets of prompt and padding are -100.
    """
    window, inputs = torch.from_numpy(np.asarray(tokens, dtype=np.int64)), torch.full((context_length,), pad)
    inputs[: len(window) - 1] = window[:-1]
    targets = torch.full((context_length,), IGNORED)
    targets[max(prompt - 1, 0) : len(window) - 1] = window[max(prompt, 1) :]
    return {"input_ids": inputs, "targets": targets}


def windows(
    documents: Iterable[Encoded], context_length: int, separator: int, counts: Counter[str], endless: bool = False
) -> Iterator[tuple[list[int], int]]:
    """Yield windows of at most S + 1 tokens, with the number of leading tokens that are given and not targets.

    Documents without a prompt are joined by the separator and cut into windows that overlap by one token, so that every token
    but the first is a target exactly once. A document with a prompt is its own window: prompt, answer and separator.

    Args:
        documents: Token ids.
        context_length: S.
        separator: Token id that follows each document.
        counts: Counts documents with prompts that are cut ("truncated") or left out ("skipped").
        endless: Whether to warn at the first of these, in addition to the end.
    """
    buffer: list[int] = []
    for prompt, text in documents:
        whole = [*(prompt or ()), *text, separator]
        if prompt is None:
            buffer += whole
            for start in range(0, len(buffer) - context_length, context_length):
                yield buffer[start : start + context_length + 1], 0
            buffer = buffer[(len(buffer) - 1) // context_length * context_length :]
            continue
        fits, told = len(prompt) <= context_length, counts.total()
        counts["truncated" if fits else "skipped"] += len(whole) > context_length + 1
        if endless and counts.total() and not told:
            _warn_of_cuts(counts, context_length)
        if fits:
            yield whole[: context_length + 1], len(prompt)
    if len(buffer) > 1:
        yield buffer, 0
    if counts.total():
        _warn_of_cuts(counts, context_length)


def _warn_of_cuts(counts: Counter[str], context_length: int) -> None:
    warnings.warn(
        f"{counts['truncated']} document(s) are longer than context_length={context_length} and were truncated; "
        f"{counts['skipped']} were left out because the prompt alone fills the context. Raise context_length to "
        "keep them whole.",
        stacklevel=2,
    )


class PackedExamples(Dataset[Example]):
    """Examples in memory, from the documents of a source (see ``windows``).

    Args:
        documents: Token ids. `counts` holds the numbers of "truncated" and "skipped" ones.
        context_length: S.
        separator: Token id that follows each document.
        dtype: Integer type that can hold every id.
    """

    def __init__(
        self, documents: Iterable[Encoded], context_length: int, separator: int, dtype: npt.DTypeLike = np.uint32
    ) -> None:
        self.context_length, self.separator, self.counts = context_length, separator, Counter[str]()
        found = windows(documents, context_length, separator, self.counts)
        rows = [(np.array(tokens, dtype), prompt) for tokens, prompt in found]
        self.tokens = np.concatenate([np.empty(0, dtype), *(tokens for tokens, _ in rows)])
        self.bounds, self.prompts = (
            np.cumsum([0, *(len(tokens) for tokens, _ in rows)]),
            np.array([length for _, length in rows]),
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        tokens = self.tokens[self.bounds[index] : self.bounds[index + 1]]
        return make_example(tokens, self.context_length, self.separator, int(self.prompts[index]))


class StreamedExamples(IterableDataset[Example]):
    """Examples from documents that are tokenized and packed (see ``windows``) while they are read, in the order of the source.

    Each worker takes every n-th document and packs its own. Each process reads all documents and takes every n-th example.
    An incomplete last round is left out, so that all processes get equally many batches and none waits for the others.

    Args:
        documents: A source that can be iterated repeatedly.
        tokenizer: Tokenizer with an end-of-text token, which follows each document.
        context_length: S.
        rank: Index of this process.
        processes: Number of processes that train together.
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
        length, separator, worker = self.context_length, cast(int, self.tokenizer.eos_token_id), get_worker_info()
        mine = islice(self.documents, worker.id if worker else 0, None, worker.num_workers if worker else 1)
        documents = (pair for document in mine for pair in encoded(self.tokenizer, [document]))
        found = windows(documents, length, separator, Counter(), endless=True)
        while len(turn := list(islice(found, self.processes))) == self.processes:
            tokens, prompt = turn[self.rank]
            yield make_example(tokens, length, separator, prompt)
