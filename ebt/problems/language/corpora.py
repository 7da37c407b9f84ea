"""Sources of text documents: files, folders, JSONL, Parquet, Hugging Face datasets, and an embedded corpus."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ebt.errors import InputError
from ebt.problems.language.python_docs import documentation_texts

PYTHON_DOCS = "python-docs"
SPLITS = ("train", "validation", "test")
TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst")
DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
BLOCK_SIZE = 4096  # characters: a single text file is cut into documents of about this size
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_READ_ERRORS = (OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class Document:
    """One document; with a `prompt`, `text` is the answer to it and the only part that is learned."""

    text: str
    prompt: str | None = None


@dataclass(frozen=True)
class Fields:
    """The names of the fields that hold a document in JSONL, Parquet and Hugging Face datasets."""

    text: str = "text"
    prompt: str | None = None

    @property
    def names(self) -> list[str]:
        return [self.text] if self.prompt is None else [self.text, self.prompt]


@dataclass(frozen=True)
class Documents:
    """A source that can be read again and again: each iteration reads it anew and leaves out blank documents.

    Raises (while iterating):
        InputError: a file is binary, malformed or lacks a field, or the source holds no document at all.
    """

    name: str
    read: Callable[[], Iterable[Document]]

    def __iter__(self) -> Iterator[Document]:
        empty = True
        for document in self.read():
            if document.text.strip():
                empty = False
                yield document
        if empty:
            raise InputError(f"{self.name} is empty: it holds no text. Give a source with at least one document.")


def open_source(source: str, fields: Fields | None = None, streaming: bool = False) -> dict[str, Documents]:
    """Documents of a source, by split ("train", "validation", "test").

    Only a Hugging Face dataset can have several splits; any other source has "train" alone.

    - `python-docs`: the embedded corpus (`python_docs`).
    - a text file (.txt .text .md .rst), UTF-8: cut into documents at paragraph ends, about 4 kB each (`cut_blocks`).
    - a folder of such files, recursive: one document per file, sorted by path, so that no file is cut by a split.
    - .jsonl, .jsonl.gz, .parquet: one document per row.
    - a folder written by `datasets.save_to_disk`, a folder with any JSONL or Parquet file (read with
      `datasets.load_dataset`, which knows its splits by their names), or the id of a dataset of the Hugging Face
      hub, `owner/name` or `owner/name:configuration`.

    Args:
        source: one of the above.
        fields: names of the text field and, optionally, of the prompt field.
        streaming: read a dataset of the hub while it is downloaded, instead of downloading it first.

    Raises:
        InputError: the source does not exist, is of an unknown kind, or lacks a field.
    """
    fields = fields or Fields()
    path = Path(source).expanduser()
    if source == PYTHON_DOCS:
        _refuse_prompt(source, fields)
        return {"train": Documents(source, python_docs)}
    if path.is_dir():
        return _open_folder(path, fields, streaming)
    if path.is_file():
        return {"train": Documents(source, _file_reader(path, fields))}
    return _open_hub(source, fields, streaming)


def cut_blocks(text: str, size: int = BLOCK_SIZE) -> list[str]:
    """Cut a text into contiguous blocks whose concatenation is the text.

    A block ends at the first paragraph end (blank line) past `size` characters; without one, at the first line end
    past `2 * size`; a line longer than that is cut.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    pieces = [line[start : start + 2 * size] for line in lines for start in range(0, len(line), 2 * size)]
    blocks, block, length = [], [], 0
    for piece in pieces:
        block.append(piece)
        length += len(piece)
        if length >= 2 * size or (length >= size and not piece.strip()):
            blocks.append("".join(block))
            block, length = [], 0
    return [*blocks, "".join(block)] if block else blocks


def check_fractions(fractions: Sequence[float]) -> None:
    """Raises InputError unless `fractions` are three shares (train, validation, test) that add up to 1."""
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise InputError(
            f"fractions={list(fractions)} cannot split a corpus. Give three shares (train, validation, test), none "
            "negative, train above 0, that add up to 1, such as [0.9, 0.05, 0.05]."
        )


def split_documents(
    documents: Sequence[Document], fractions: Sequence[float] = (0.9, 0.05, 0.05), seed: int = 0
) -> dict[str, list[Document]]:
    """Split by document. Each split keeps the order of the source; a share above 0 gets at least one document.

    Raises:
        InputError: fractions that are no shares, or fewer documents than splits.
    """
    check_fractions(fractions)
    held_out = {
        name: max(1, round(share * len(documents))) if share else 0
        for name, share in zip(SPLITS[1:], fractions[1:], strict=True)
    }
    if sum(held_out.values()) >= len(documents):
        raise InputError(
            f"The source has {len(documents)} document(s), too few to split with fractions={list(fractions)}. Give "
            "more text, a validation_source and a test_source, or fractions=[1, 0, 0] to hold nothing out."
        )
    order = iter(sorted(range(len(documents)), key=lambda index: _draw(index, seed)))
    splits = {name: sorted(next(order) for _ in range(count)) for name, count in held_out.items()}
    splits["train"] = sorted(order)
    return {name: [documents[index] for index in splits[name]] for name in SPLITS}


def drawn_documents(documents: Iterable[Document], split: str, fractions: Sequence[float], seed: int) -> Iterator[Document]:
    """The documents of a stream, whose length is unknown, that fall to `split` by a draw for each of them."""
    for index, document in enumerate(documents):
        draw = _draw(index, seed)
        drawn = "test" if draw < fractions[2] else "validation" if draw < fractions[1] + fractions[2] else "train"
        if drawn == split:
            yield document


def documents_sha256(documents: Iterable[Document]) -> str:
    """SHA-256 (hexadecimal) of the texts and prompts of documents, in their order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.prompt, document.text]).encode() + b"\n")
    return digest.hexdigest()


@cache
def python_docs() -> tuple[Document, ...]:
    """The embedded corpus: see `ebt.problems.language.python_docs`."""
    return tuple(Document(text) for text in documentation_texts())


def _draw(index: int, seed: int) -> float:
    """A number in [0, 1) that depends on the seed and the index alone, on any platform and version."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _refuse_prompt(source: object, fields: Fields) -> None:
    if fields.prompt is not None:
        raise InputError(
            f"prompt_field={fields.prompt!r} was given, but {source} is plain text without fields. Drop prompt_field, "
            "or give JSONL, Parquet or a dataset."
        )


def _file_reader(path: Path, fields: Fields) -> Callable[[], Iterable[Document]]:
    name = path.name.lower()
    if name.endswith(TEXT_SUFFIXES):
        _refuse_prompt(path, fields)
        return partial(_read_blocks, path)
    if name.endswith((".jsonl", ".jsonl.gz")):
        return partial(_read_jsonl, path, fields)
    if name.endswith(".parquet"):
        return partial(_read_parquet, path, fields)
    raise InputError(
        f"{path} has a suffix that is not known. Known are {', '.join(TEXT_SUFFIXES + DATA_SUFFIXES)}: rename or "
        "convert the file."
    )


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}). Convert it to UTF-8, or give a text file.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error}). Check its permissions.") from error
    if b"\0" in data:
        raise InputError(f"{path} is a binary file (byte {data.index(0)} is NUL). Give a text file.")
    return text


def _read_blocks(path: Path) -> Iterator[Document]:
    yield from map(Document, cut_blocks(_read_text(path)))


def _read_texts(paths: Sequence[Path]) -> Iterator[Document]:
    yield from (Document(_read_text(path)) for path in paths)


def _document(row: Mapping[str, Any], fields: Fields, where: str) -> Document:
    _check_fields(row, fields, where)
    for name in fields.names:
        if not isinstance(row[name], str):
            raise InputError(
                f"{where}: the field {name!r} holds {type(row[name]).__name__}, not text. Name a field of strings, "
                "or leave such rows out."
            )
    return Document(row[fields.text], None if fields.prompt is None else row[fields.prompt])


def _check_fields(present: Iterable[str], fields: Fields, where: str) -> None:
    present = sorted(present)
    for option, name in zip(("text_field", "prompt_field"), fields.names, strict=False):
        if name not in present:
            raise InputError(f"{where} has no field {name!r}; it has {present}. Set {option} to one of them.")


def _read_jsonl(path: Path, fields: Fields) -> Iterator[Document]:
    try:
        with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}, line {number}"
                    yield _document(_parse_line(line, where), fields, where)
    except _READ_ERRORS as error:
        raise InputError(f"{path} cannot be read ({error}). Check that it is complete and of its kind.") from error


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:  # malformed JSON, or not UTF-8
        raise InputError(f"{where} is not JSON ({error}). Correct the line, or remove it.") from error
    if not isinstance(row, dict):
        raise InputError(f"{where} is not a JSON object. Write each document as a line {{'text': '...'}}.")
    return row


def _read_parquet(path: Path, fields: Fields) -> Iterator[Document]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            _check_fields(table.schema_arrow.names, fields, str(path))
            rows = (row for batch in table.iter_batches(columns=fields.names) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield _document(row, fields, f"{path}, row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as Parquet ({error}). Check the file, or write it again.") from error


def _open_folder(path: Path, fields: Fields, streaming: bool) -> dict[str, Documents]:
    import datasets

    files = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if {"dataset_dict.json", "state.json"} & {file.name for file in files if file.parent == path}:
        return _open_dataset(str(path), fields, partial(datasets.load_from_disk, str(path)))
    if any(file.name.lower().endswith(DATA_SUFFIXES) for file in files):
        return _open_dataset(str(path), fields, partial(datasets.load_dataset, str(path), streaming=streaming))
    texts = [file for file in files if file.name.lower().endswith(TEXT_SUFFIXES)]
    others = sorted({file.suffix for file in files if file not in texts})
    if not texts:
        raise InputError(
            f"{path} holds no file that can be read (it has {others or 'no files'}). Known are "
            f"{', '.join(TEXT_SUFFIXES + DATA_SUFFIXES)}."
        )
    _refuse_prompt(path, fields)
    if others:
        warnings.warn(f"{path}: {len(files) - len(texts)} file(s) are left out ({', '.join(others)}).", stacklevel=3)
    return {"train": Documents(str(path), partial(_read_texts, texts))}


def _open_hub(source: str, fields: Fields, streaming: bool) -> dict[str, Documents]:
    import datasets

    name, _, configuration = source.partition(":")
    known = source.lower().endswith(TEXT_SUFFIXES + DATA_SUFFIXES)
    if known or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise InputError(f"{source} does not exist. Check the path of the file or folder.")
    load = partial(datasets.load_dataset, name, configuration or None, streaming=streaming)
    return _open_dataset(source, fields, load)


def _open_dataset(name: str, fields: Fields, load: Callable[[], Any]) -> dict[str, Documents]:
    from datasets.exceptions import DatasetsError

    try:
        loaded = load()
    except (OSError, ValueError, RuntimeError, ImportError, DatasetsError) as error:
        raise InputError(
            f"{name} cannot be loaded as a dataset ({' '.join(str(error).split())}). If it is a path, check it; if it "
            "is an id of the Hugging Face hub (owner/name or owner/name:configuration), check its spelling and the network."
        ) from error
    by_name = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if len(by_name) == 1:
        by_name = {"train": next(iter(by_name.values()))}
    splits = {}
    for split, spellings in _SPLIT_NAMES.items():
        part = next((by_name[spelling] for spelling in spellings if spelling in by_name), None)
        if part is None:
            continue
        if part.column_names:  # a stream may not know its columns before its first row
            _check_fields(part.column_names, fields, name)
        splits[split] = Documents(f"{name} ({split})", partial(_read_rows, part, fields, name))
    if "train" not in splits:
        raise InputError(f"{name} has no split 'train' among {sorted(by_name)}. Rename the one to train on.")
    return splits


def _read_rows(part: Any, fields: Fields, name: str) -> Iterator[Document]:
    rows = (
        dict(zip(batch, values, strict=True))
        for batch in part.iter(batch_size=1000)
        for values in zip(*batch.values(), strict=True)
    )
    for number, row in enumerate(rows, 1):
        yield _document(row, fields, f"{name}, row {number}")
