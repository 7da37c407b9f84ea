"""Texts to measure on: what came with the library, what is generated, and files of several kinds."""

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
"""Of the standard library whose sources are read."""
KINDS = "()[]{}"
LINES, PAIRS = 2000, 24
"""Strings of brackets, and pairs in each, at most."""


def identity(source: str) -> dict[str, str]:
    """What tells a text from others, wherever its file lies.

    Raises:
        InputError: a file that cannot be read.
    """
    if source == BRACKETS:
        return {"source": source}
    if source in BUILT_IN:
        return {"source": source, "python": platform.python_version()}
    return {"source": Path(source).name, "sha256": hashlib.sha256(_bytes(source)).hexdigest()}


def read(source: str) -> list[str]:
    """The documents of a set: a built-in one, or a file.

    Text files are cut into documents at paragraph ends. JSONL has a field ``text``, or ``question`` and ``answer``, which are
    joined by a line end. JSON is a task of BIG-bench: each question with its right answer.

    Raises:
        InputError: the file cannot be read, is empty, or of an unknown kind.
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
    """Balanced strings of three kinds of brackets (Dyck words), one a line: each bracket closes the last open one."""
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
        raise InputError(f"{source} cannot be read ({error}): name an existing file.") from error


def _lines(source: str) -> Any:
    data = _bytes(source)
    try:
        return (gzip.decompress(data) if source.lower().endswith(".gz") else data).decode("utf-8")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{source} cannot be read ({error}): give UTF-8 text, or a whole gzip file of it.") from error


def _fields(source: str) -> Fields:
    """Those of the first line of JSONL."""
    if not source.lower().endswith((".jsonl", ".jsonl.gz")):
        return Fields()
    first = next((line for line in _lines(source).splitlines() if line.strip()), "{}")
    try:
        keys = set(json.loads(first))
    except (ValueError, TypeError):
        keys = set()  # the reader names the line
    return Fields("answer", "question") if {"question", "answer"} <= keys else Fields()


def _questions(source: str) -> list[str]:
    try:
        examples = json.loads(_lines(source))["examples"]
        texts = [f"{one['input']} {max(one['target_scores'], key=one['target_scores'].get)}\n" for one in examples]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{source} is no task of BIG-bench ({error!r}): it needs examples with input and target_scores. "
            "Write other text as .txt or .jsonl."
        ) from error
    if not texts:
        raise InputError(f"{source} is empty: it holds no example. Leave it out, or give another file.")
    return texts
