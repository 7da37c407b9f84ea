"""Batches of text: sources, splits, tokenizer and packing in one data module.

Shapes: S = context length, B = batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from ebt.errors import InputError
from ebt.problems.language.corpora import (
    PYTHON_DOCS,
    SPLITS,
    Document,
    Documents,
    Fields,
    OnError,
    check_fractions,
    documents_sha256,
    drawn_documents,
    open_source,
    split_documents,
)
from ebt.problems.language.packing import IGNORED, Example, PackedExamples, StreamedExamples, encoded
from ebt.problems.language.tokenizers import load_tokenizer, render_chat, vocabulary_size
from ebt.training.sampling import ResumableData, ResumableLoader, drawn


class TextDataModule(ResumableData):
    """Batches of text: dict(`input_ids` (B, S), `targets` (B, S)), int64, ignored targets -100.

    The order of training batches depends only on the seed and the epoch. A checkpoint saved within an epoch resumes with the
    next batch. A stream keeps the order of its source. To resume, it is read again up to the position.

    Args:
        source: `python-docs` (embedded, needs no download), a file, a folder, or the id of a Hugging Face dataset
            (see `corpora.open_source`).
        validation_source, test_source: Separate sources. By default the splits of a dataset are used or, failing that,
            shares of `source`, by document.
        text_field: Field with the text, or with the messages of a conversation, in JSONL, CSV, Parquet and datasets. `a.b`
            is a nested field. Without `text`, `messages` is read. Conversations are formatted by the tokenizer's chat template.
        prompt_field: Field with the prompt. With it each document is one context and only its text, the answer, is learned.
            Without it documents are packed.
        tokenizer: `bytes`, a folder or tokenizer.json file of a saved tokenizer, or an id of the Hugging Face hub.
        context_length: S, in tokens.
        batch_size, evaluation_batch_size: B, in contexts, per process. Evaluation uses `batch_size` by default.
        seed, split_seed: Seeds of the training order and of the split. The split uses `seed` by default.
        train_examples: Number of training contexts, drawn by the seed. All by default.
        fractions: Shares of train, validation and test.
        streaming: Read, tokenize and pack during training instead of before.
        num_workers: Number of processes that prepare batches.
        on_error: `skip` bad files, lines and rows with one warning, or `refuse` the first.

    Attributes, after `prepare`: `tokenizer`, `vocab_size`.

    Raises:
        InputError: By `__init__` if settings are invalid. By `prepare` if a source or tokenizer cannot be read, or a text is
            too short for one context.
    """

    tokenizer: PreTrainedTokenizerFast
    vocab_size: int

    def __init__(
        self,
        source: str = PYTHON_DOCS,
        validation_source: str | None = None,
        test_source: str | None = None,
        text_field: str = "text",
        prompt_field: str | None = None,
        tokenizer: str = "bytes",
        context_length: int = 256,
        batch_size: int = 16,
        evaluation_batch_size: int | None = None,
        seed: int = 0,
        fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
        streaming: bool = False,
        num_workers: int = 0,
        split_seed: int | None = None,
        train_examples: int | None = None,
        on_error: OnError = "skip",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.evaluation_batch_size = batch_size if evaluation_batch_size is None else evaluation_batch_size
        self.source, self.own_sources = source, {"validation": validation_source, "test": test_source}
        self.text_field, self.prompt_field, self.on_error = text_field, prompt_field, on_error
        self.tokenizer_spec, self.context_length, self.batch_size = tokenizer, context_length, batch_size
        self.seed, self.fractions, self.streaming, self.num_workers = seed, tuple(fractions), streaming, num_workers
        self.split_seed, self.train_examples = seed if split_seed is None else split_seed, train_examples
        for name in ("context_length", "batch_size", "evaluation_batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} is too small. Give at least 1.")
        if seed < 0 or num_workers < 0:
            raise InputError(f"seed={seed} and num_workers={num_workers} must not be negative. Give 0 or more.")
        if train_examples is not None and (train_examples < 1 or streaming):
            raise InputError(f"train_examples={train_examples}: give at least 1, and set streaming to false.")
        check_fractions(fractions)
        Documents(source, tuple, on_error)  # checks `on_error`
        self._datasets: dict[str, PackedExamples | StreamedExamples] = {}
        self._documents: dict[str, int] = {}
        self._sha256: str | None = None

    def prepare(self) -> None:
        """Read, split, tokenize and pack the text. Later calls return at once."""
        if self._datasets:
            return
        self.tokenizer = load_tokenizer(self.tokenizer_spec)
        self.vocab_size = vocabulary_size(self.tokenizer)
        sources = self._open()
        shares = [0.0 if name in sources else share for name, share in zip(SPLITS, self.fractions, strict=True)]
        shares[0] = 1 - sum(shares)
        if self.streaming:
            self._prepare_streams(sources, shares)
        else:
            self._prepare_datasets({name: list(documents) for name, documents in sources.items()}, shares)

    def statistics(self) -> dict[str, Any]:
        """Describe the data: source, SHA-256 of all documents, vocabulary size, and the numbers of documents, tokens (with
        separators) and contexts of each split. The documents of a stream are not known beforehand."""
        self.prepare()
        packed = {name: data for name, data in self._datasets.items() if isinstance(data, PackedExamples)}
        cuts = {name: dict(data.counts) for name, data in packed.items() if self.prompt_field is not None}
        overlaps = {name: len(data) - 1 if self.prompt_field is None else 0 for name, data in packed.items()}
        return {
            "source": self.source,
            "sha256": self._sha256,
            "tokenizer": self.tokenizer_spec,
            "vocab_size": self.vocab_size,
            "context_length": self.context_length,
            "documents": dict(self._documents),
            "tokens": {name: len(data.tokens) - overlaps[name] for name, data in packed.items()},
            "contexts": {name: len(data) for name, data in packed.items()},
            **({"cuts": cuts} if cuts else {}),
        }

    def train_dataloader(self) -> ResumableLoader:
        """Batches in the order of (seed, epoch). An incomplete last batch is dropped, unless it is the only one."""
        self.prepare()
        dataset = self._datasets["train"]
        if isinstance(dataset, StreamedExamples):
            dataset.rank, dataset.processes = self._process
        return self.training_loader(drawn(dataset, self.train_examples, self.seed))

    def val_dataloader(self) -> DataLoader[Example] | list[DataLoader[Example]]:
        """Batches in the order of the source. An empty list, which skips validation, if there is no validation split."""
        self.prepare()
        return self.evaluation_loader(self._datasets["validation"]) if "validation" in self._datasets else []

    def test_dataloader(self) -> DataLoader[Example]:
        """Batches in the order of the source."""
        self.prepare()
        if "test" not in self._datasets:
            raise InputError("There are no test documents. Give a test_source, or a share above 0 in fractions.")
        return self.evaluation_loader(self._datasets["test"])

    def _open(self) -> dict[str, Documents]:
        fields = Fields(self.text_field, self.prompt_field)
        if self.tokenizer.chat_template:
            fields = replace(fields, chat=partial(render_chat, self.tokenizer))
        sources = open_source(self.source, fields, self.streaming, self.on_error)
        for split, name in self.own_sources.items():
            if name is not None:
                parts = open_source(name, fields, self.streaming, self.on_error)
                if split not in parts and len(parts) > 1:
                    raise InputError(f"{split}_source={name} has only {sorted(parts)}, no {split!r}. Give another source.")
                sources[split] = parts.get(split, parts["train"])
        return sources

    def _prepare_datasets(self, documents: dict[str, list[Document]], shares: Sequence[float]) -> None:
        self._sha256 = documents_sha256(document for part in documents.values() for document in part)
        splits = split_documents(documents.pop("train"), shares, self.split_seed) | documents
        self._datasets = {split: self._dataset(split, part) for split, part in splits.items() if part}
        self._documents = {split: len(splits[split]) for split in self._datasets}

    def _dataset(self, split: str, documents: Sequence[Document]) -> PackedExamples:
        separator, dtype = cast(int, self.tokenizer.eos_token_id), np.uint16 if self.vocab_size <= 2**16 else np.uint32
        data = PackedExamples(encoded(self.tokenizer, documents), self.context_length, separator, dtype)
        self._check(split, data[0] if len(data) else None)
        return data

    def _prepare_streams(self, sources: dict[str, Documents], shares: Sequence[float]) -> None:
        streams = dict(sources)
        for split, share in zip(SPLITS, shares, strict=True):
            if 0 < share < 1:
                draw = partial(drawn_documents, sources["train"], split, shares, self.split_seed)
                streams[split] = Documents(f"{self.source} ({split} share)", draw)
        datasets = {split: StreamedExamples(part, self.tokenizer, self.context_length) for split, part in streams.items()}
        self._check("train", next(iter(datasets["train"]), None))  # fails here rather than in the first training step
        self._datasets.update(datasets)

    def _check(self, split: str, first: Example | None) -> None:
        if first is None:
            raise InputError(
                f"No {split} document of {self.source} has a prompt that leaves room for an answer in "
                f"context_length={self.context_length}. Raise context_length, or check prompt_field."
            )
        if split == "train" and self.prompt_field is None and first["targets"][-1] == IGNORED:
            raise InputError(
                f"The train documents of {self.source} have {int((first['targets'] != IGNORED).sum()) + 1} tokens, too few for "
                f"context_length={self.context_length} (and the token after it). Give more text or a smaller context_length."
            )
