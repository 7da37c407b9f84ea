"""Texts to measure: built-in, generated, and files of several types."""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ebt.errors import InputError
from ebt.problems.language.corpora import PYTHON_DOCS, Document, Fields, open_source
from ebt.problems.language.python_docs import source_texts

PYTHON_SOURCE, BRACKETS = "python-source", "brackets"
BUILT_IN = (PYTHON_DOCS, PYTHON_SOURCE, BRACKETS)
SUFFIXES = (".txt", ".text", ".md", ".rst", ".jsonl", ".jsonl.gz", ".json", ".json.gz")
MODULES = 60
"""Modules of the standard library to read as source code."""
KINDS = "()[]{}"
LINES, PAIRS = 2000, 24
"""Number of bracket strings, and maximum number of pairs in each."""


def identity(source: str) -> dict[str, str]:
    """Return an identity of a text that does not depend on its location.

    Raises:
        InputError: The file cannot be read.
    """
    if source == BRACKETS:
        return {"source": source}
    if source in BUILT_IN:
        return {"source": source, "python": platform.python_version()}
    return {"source": Path(source).name, "sha256": hashlib.sha256(_bytes(source)).hexdigest()}


def read(source: str) -> list[str]:
    """Read the documents of a built-in set or a file.

    Text files are split into documents at paragraph ends. JSONL has a field ``text``, or ``question`` and ``answer``, which are
    joined by a newline. JSON is a BIG-bench task; each document is a question with its correct answer.

    Raises:
        InputError: The file cannot be read, is empty, or has an unknown type.
    """
    if source == PYTHON_SOURCE:
        return source_texts(MODULES)
    if source == BRACKETS:
        return brackets()
    name = source.lower()
    if name.endswith((".json", ".json.gz")):
        return _questions(source)
    documents: Sequence[Document] = list(open_source(source, _fields(source))["train"])
    return [text.text if text.prompt is None else f"{text.prompt}\n{text.text}\n" for text in documents]


def brackets(seed: int = 0) -> list[str]:
    """Generate balanced strings of three types of brackets (Dyck words), one per line."""
    generator = np.random.default_rng(seed)
    lines = [_balanced(int(generator.integers(2, PAIRS + 1)), generator) for _ in range(LINES)]
    return ["\n".join(lines[i : i + 50]) + "\n" for i in range(0, LINES, 50)]


def _balanced(pairs: int, generator: np.random.Generator) -> str:
    text, pending, left = "", list[str](), pairs
    while left or pending:
        if left and (not pending or generator.random() < 0.5):
            kind = 2 * int(generator.integers(len(KINDS) // 2))
            text, left = text + KINDS[kind], left - 1
            pending.append(KINDS[kind + 1])
        else:
            text += pending.pop()
    return text


def _bytes(source: str) -> bytes:
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"{source} cannot be read ({error}): give an existing file.") from error


def _lines(source: str) -> Any:
    data = _bytes(source)
    try:
        return (gzip.decompress(data) if source.lower().endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{source} cannot be read ({error}): give UTF-8 text, or a complete gzip file of it.") from error


def _fields(source: str) -> Fields:
    """Return the fields of the first line of a JSONL file."""
    if not source.lower().endswith((".jsonl", ".jsonl.gz")):
        return Fields()
    first = next((line for line in _lines(source).splitlines() if line.strip()), "{}")
    try:
        keys = set(json.loads(first))
    except (ValueError, TypeError):
        keys = set()  # the reader reports the line
    return Fields("answer", "question") if {"question", "answer"} <= keys else Fields()


def _questions(source: str) -> list[str]:
    try:
        examples = json.loads(_lines(source))["examples"]
        texts = [f"{one['input']} {max(one['target_scores'], key=one['target_scores'].get)}\n" for one in examples]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source} is not a BIG-bench task ({error!r}): it needs examples with input and target_scores. "
            "Save other text as .txt or .jsonl."
        ) from error
    if not texts:
        raise InputError(f"{source} is empty: it has no examples. Leave it out, or give another file.")
    return texts
