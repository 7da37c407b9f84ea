"""Sources of text documents: files, folders, Hugging Face datasets, and an embedded corpus."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import fsspec  # type: ignore[import-untyped]

from ebt.errors import InputError
from ebt.files import separator
from ebt.problems.language.python_docs import documentation_texts

PYTHON_DOCS = "python-docs"
SPLITS = ("train", "validation", "test")
NAMED = 3
"""Maximum number of bad parts named in the warning."""
BLOCK_SIZE = 4096  # characters: approximate size of the documents that a single text file is cut into
OnError = Literal["skip", "refuse"]
"""How bad parts (files, lines, rows) are handled: skipped with one warning, or with an error for the first."""
Message = Mapping[str, Any]
Reader = Callable[[], Iterable["Document | InputError"]]
_SPLIT_NAMES = {"train": "train", **dict.fromkeys(("dev", "val", "valid", "validation"), "validation"), "test": "test"}
_COMPRESSED = r"(\.(gz|bz2|xz|zst))?$"
_LINES, _TABLES = re.compile(r"\.(jsonl|ndjson)" + _COMPRESSED, re.I), re.compile(r"\.(parquet|arrow)$", re.I)
_CSV, _ROWS = re.compile(r"\.[ct]sv" + _COMPRESSED, re.I), re.compile(r"\.(jsonl|ndjson|json|[ct]sv)" + _COMPRESSED, re.I)
_READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, ImportError, zlib.error, lzma.LZMAError, csv.Error)


@dataclass(frozen=True)
class Document:
    """One document. With a `prompt`, `text` is the answer to it, and only the answer is learned."""

    text: str
    prompt: str | None = None


def plain_chat(messages: Iterable[Message]) -> str:
    """Format a conversation as lines of role and content."""
    return "".join(message["role"] + ": " + message["content"] + "\n" for message in messages)


@dataclass(frozen=True)
class Fields:
    """The fields of a row that hold its document. `a.b` is a nested field. A row without `text` may have `messages`.

    Args:
        text: Field with the text, or with the messages of a conversation.
        prompt: Field with the prompt or its messages.
        chat: Function that formats a conversation as text.
    """

    text: str = "text"
    prompt: str | None = None
    chat: Callable[[Iterable[Message]], str] = plain_chat

    def document(self, row: Any, where: str) -> Document:
        """Return the document of a row, a mapping or a line of JSON. Raises ``InputError`` if the row is invalid."""
        try:
            row = json.loads(row) if isinstance(row, bytes) else row
        except ValueError as error:  # malformed JSON, or not UTF-8
            raise InputError(f"{where} is not JSON ({error}). Correct the line, or remove it.") from error
        if not isinstance(row, Mapping) or None in row:
            raise InputError(f"{where} is not a JSON object or has more fields than the header. Correct or remove it.")
        prompt = None if self.prompt is None else self._text(row, self.prompt, "prompt_field", where)
        return Document(self._text(row, self.text, "text_field", where), prompt)

    def _text(self, row: Mapping[str, Any], name: str, option: str, where: str) -> str:
        value = _value(row, name, option, where)
        try:
            if isinstance(value, list) and value and all(isinstance(part, Mapping) and "role" in part for part in value):
                value = self.chat(value)
            if isinstance(value, str):
                value.encode()
                return value
        except Exception as error:  # a lone surrogate, or a conversation rejected by the template
            raise InputError(f"{where}: the field {name!r} cannot be written as UTF-8 text ({error}). Correct it.") from error
        raise InputError(
            f"{where}: the field {name!r} holds {type(value).__name__}, not text. Set {option} to a field of text."
        )


@dataclass(frozen=True)
class Documents:
    """Documents of a source. Each iteration reads the source anew and leaves out blank documents.

    `read` yields documents, and errors in place of bad parts. Bad parts are skipped with one warning, or the first is raised.

    Raises:
        InputError: While iterating, if the source has no documents, or a bad part with `on_error="refuse"`.
    """

    name: str
    read: Reader
    on_error: OnError = "skip"

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "refuse"):
            raise InputError(f"on_error={self.on_error!r} is unknown: give 'skip' or 'refuse'.")

    def __iter__(self) -> Iterator[Document]:
        bad, named, empty = 0, "", True
        try:
            for document in self.read():
                if isinstance(document, Document):
                    if document.text.strip():
                        empty = False
                        yield document
                elif self.on_error == "refuse":
                    raise document
                else:
                    bad += 1
                    named += f" {document}" if bad <= NAMED else " ..." if bad == NAMED + 1 else ""
        finally:
            if bad and not empty:
                told = f"{self.name}: {bad} bad part(s) skipped; on_error=refuse stops at the first:{named}"
                warnings.warn(told, stacklevel=2)
        if empty:
            raise InputError(f"{self.name} is empty: it holds no text.{named or ' Give a source with at least one document.'}")


def open_source(
    source: str, fields: Fields | None = None, streaming: bool = False, on_error: OnError = "skip"
) -> dict[str, Documents]:
    """Open a source and return its documents by split ("train", "validation", "test").

    Only folders of data files and Hugging Face datasets can have several splits. All other sources have only "train".

    - `python-docs`: the embedded corpus (`python_docs`).
    - .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow: one document per row.
    - Any other file, in UTF-8: cut into documents at paragraph ends, about 4 kB each (`cut_blocks`).
    - A folder with .jsonl or .parquet files, or with data files only: the splits found by `datasets.load_dataset`.
    - Any other folder, recursively: one document per text file, sorted by path. No file is cut by a split.
    - A folder written by `datasets.save_to_disk`, or a dataset of the Hugging Face hub, `owner/name` or
      `owner/name:configuration`.

    Text, JSON and CSV files may be compressed (.gz .bz2 .xz .zst).

    Args:
        source: One of the above.
        fields: Names of the text field and, optionally, of the prompt field.
        streaming: Read a dataset of the hub while it is downloaded, instead of downloading it first.
        on_error: `skip` bad files, lines and rows with one warning, or `refuse` the first.

    Raises:
        InputError: If the source does not exist, cannot be read, or lacks a field.
    """
    readers = _readers(source, fields or Fields(), streaming)
    names = {split: f"{source} ({split})" if len(readers) > 1 else source for split in readers}
    return {split: Documents(names[split], read, on_error) for split, read in readers.items()}


def cut_blocks(text: str, size: int = BLOCK_SIZE) -> list[str]:
    """Cut a text into contiguous blocks that concatenate to the text.

    A block ends at the first blank line past `size` characters. Past `2 * size` it ends at a line end, or within a line.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text)
    blocks = [""]
    for piece in (line[start : start + 2 * size] for line in lines for start in range(0, len(line), 2 * size)):
        blocks[-1] += piece
        if len(blocks[-1]) >= 2 * size or (len(blocks[-1]) >= size and not piece.strip()):
            blocks.append("")
    return blocks if blocks[-1] else blocks[:-1]


def check_fractions(fractions: Sequence[float]) -> None:
    """Raise ``InputError`` unless `fractions` are three shares (train, validation, test) that add up to 1."""
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6 or fractions[0] <= 0:
        raise InputError(
            f"fractions={list(fractions)} cannot split a corpus. Give three shares (train, validation, test) that add up to 1, "
            "none negative and train above 0, for example [0.9, 0.05, 0.05]."
        )


def split_documents(
    documents: Sequence[Document], fractions: Sequence[float] = (0.9, 0.05, 0.05), seed: int = 0
) -> dict[str, list[Document]]:
    """Split by document. Each split keeps the order of the source. A share above 0 gets at least one document.

    Too few documents without prompts are split by paragraph or, failing that, by line, with a warning.

    Raises:
        InputError: If `fractions` are invalid, or there are fewer documents, paragraphs and lines than splits.
    """
    check_fractions(fractions)
    wanted = 1 + sum(share > 0 for share in fractions[1:])
    for unit, end in (("paragraphs", r"(?<=\n)(?:[ \t\r]*\n)+"), ("lines", r"(?<=\n)")):
        parts = [Document(part) for whole in documents[:wanted] for part in re.split(end, whole.text) if part.strip()]
        if len(documents) < wanted <= len(parts) and all(document.prompt is None for document in documents):
            warnings.warn(f"The source has {len(documents)} document(s), so its {len(parts)} {unit} are split.", stacklevel=2)
            documents = parts
    counts = [max(1, round(share * len(documents))) if share else 0 for share in fractions[1:]]
    if sum(counts) >= len(documents):
        raise InputError(
            f"The source has {len(documents)} document(s), too few to split with fractions={list(fractions)}. Give "
            "more text, a validation_source and a test_source, or fractions=[1, 0, 0] to hold nothing out."
        )
    order = iter(sorted(range(len(documents)), key=lambda index: _draw(index, seed)))
    held_out = [sorted(islice(order, count)) for count in counts]
    splits = zip(SPLITS, (sorted(order), *held_out), strict=True)
    return {name: [documents[index] for index in indices] for name, indices in splits}


def drawn_documents(documents: Iterable[Document], split: str, fractions: Sequence[float], seed: int) -> Iterator[Document]:
    """Draw the documents of `split` from a stream of unknown length, one independent draw per document."""
    for index, document in enumerate(documents):
        draw = _draw(index, seed)
        if split == ("test" if draw < fractions[2] else "validation" if draw < fractions[1] + fractions[2] else "train"):
            yield document


def documents_sha256(documents: Iterable[Document]) -> str:
    """SHA-256 (hexadecimal) of the texts and prompts of documents, in order."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.prompt, document.text]).encode() + b"\n")
    return digest.hexdigest()


@cache
def python_docs() -> tuple[Document, ...]:
    """Return the embedded corpus, see `ebt.problems.language.python_docs`."""
    return tuple(Document(text) for text in documentation_texts())


def hub_answers(name: str, kind: Literal["model", "dataset"]) -> bool:
    """Ask the Hugging Face hub for a repository. Returns ``False`` if it does not answer and the cache has to be used.

    Raises:
        InputError: If `name` is a path that does not exist, or the hub has no such repository.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    is_id = re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name) and not re.search(r"\.(txt|md|rst|py|gz|jsonl?|[ct]sv|parquet)$", name)
    if not is_id or ("/" in name and Path(name).parent.is_dir()):
        raise InputError(f"no such file or folder: {name}")
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=10)
    except RepositoryNotFoundError as error:
        raise InputError(f"no such file or folder: {name}, and no such {kind} on the Hugging Face hub") from error
    except Exception:  # no network, or offline mode
        return False
    return True


def _draw(index: int, seed: int) -> float:
    """A number in [0, 1) that depends only on the seed and the index, on any platform and version."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _value(row: Mapping[str, Any], name: str, option: str, where: str) -> Any:
    """Return the field `name` of a row. `a.b` is the field or item b of the field a."""
    value: Any = row
    name = "messages" if name == "text" and "text" not in row and "messages" in row else name
    for part in [name] if name in row else name.split("."):
        try:
            value = value[int(part)] if isinstance(value, list) else value[part]
        except (LookupError, TypeError, ValueError):
            has = sorted(map(str, row))
            raise InputError(f"{where} has no field {name!r}; it has {has}. Set {option} to one of them.") from None
    return value


@cache
def _datasets() -> Any:
    return import_module("datasets")  # imported late: it takes a second and text files do not need it


def _readers(source: str, fields: Fields, streaming: bool) -> dict[str, Reader]:
    path = Path(source).expanduser()
    if source != PYTHON_DOCS and not path.exists():
        name, _, configuration = source.partition(":")
        _datasets().config.HF_HUB_OFFLINE = not hub_answers(name, "dataset")
        load = partial(_datasets().load_dataset, name, configuration or None, streaming=streaming)
        return _dataset_readers(source, fields, load)
    if source != PYTHON_DOCS and path.is_dir() and _is_dataset(path):
        return _dataset_readers(source, fields, lambda: _load_folder(str(path)))
    if path.is_file() and (table := _TABLES.search(path.name)):
        load = partial(_datasets().load_dataset, table[1].lower(), data_files=str(path), streaming=True)
        return _dataset_readers(source, fields, load)
    if path.is_file() and _ROWS.search(path.name):
        return {"train": partial(_read_rows, [path], fields)}
    for option, field in (("prompt_field", fields.prompt), ("text_field", fields.text)):
        if field is not None and (option, field) != ("text_field", Fields.text):
            raise InputError(
                f"{option}={field!r} was given, but {source} is plain text without fields. Remove {option}, "
                "or give JSONL, CSV, Parquet or a dataset."
            )
    texts = [path] if path.is_file() else _files(path)
    return {"train": python_docs if source == PYTHON_DOCS else partial(_read_texts, texts, path.is_file())}


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _is_dataset(folder: Path) -> bool:
    """Whether a folder has data files and is read by `datasets`, rather than as text files."""
    names = [file.name for file in _files(folder)]
    if not names:
        raise InputError(f"{folder} has no readable files. Give a folder with text or data files.")
    data = [_ROWS.search(name) or _TABLES.search(name) for name in names if not name.startswith(("README", "LICENSE"))]
    return (bool(data) and all(data)) or any(match and match[1].lower() in ("jsonl", "parquet") for match in data)


def _load_folder(path: str) -> Any:
    """Load a folder with `datasets`. JSON and CSV files are left to `_read_rows`, which can skip a bad line."""
    if (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists():
        return _datasets().load_from_disk(path)
    builder = _datasets().load_dataset_builder(path)
    if builder.name in ("json", "csv"):
        return {str(split): list(map(Path, files)) for split, files in builder.config.data_files.items()}
    return _datasets().load_dataset(path, streaming=True)


def _dataset_readers(name: str, fields: Fields, load: Callable[[], Any]) -> dict[str, Reader]:
    try:
        loaded = load()
    except (*_READ_ERRORS, _datasets().exceptions.DatasetsError) as error:
        missing = "" if Path(name).expanduser().exists() else f"no such file or folder: {name}. "
        raise InputError(
            f"{missing}{name} cannot be loaded as a dataset ({' '.join(str(error).split())}). Check the path. An id of "
            "the Hugging Face hub (owner/name or owner/name:configuration) needs the network."
        ) from error
    parts = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if len(parts) == 1:
        parts = {"train": next(iter(parts.values()))}
    splits = {split: parts[part] for part, split in _SPLIT_NAMES.items() if part in parts}
    if "train" not in splits:
        raise InputError(f"{name} has no split 'train' among {sorted(map(str, parts))}. Rename the split to train on.")
    for columns in filter(None, (getattr(part, "column_names", None) for part in splits.values())):
        for option, field in (("text_field", fields.text), ("prompt_field", fields.prompt)):
            if field is not None and field not in columns:
                _value(dict.fromkeys(columns), field.split(".")[0], option, name)
    return {
        split: partial(_read_rows, part, fields) if isinstance(part, list) else partial(_read_dataset, part, fields, name)
        for split, part in splits.items()
    }


def _open(path: Path) -> Any:
    if path.suffix.lower() == ".zip":
        raise ValueError("it is a zip archive: unpack it")
    return fsspec.open(str(path), "rb", compression="infer").open()


def _read_texts(paths: Sequence[Path], cut: bool) -> Iterator[Document | InputError]:
    for path in paths:
        try:
            with _open(path) as file:
                data = file.read(1 << 16)
                data += b"" if b"\0" in data else file.read()  # binary files may be large
            if b"\0" in data:
                yield InputError(f"{path} is a binary file (byte {data.index(0)} is NUL). Give a text file.")
            else:
                text = data.decode("utf-8-sig")
                yield from map(Document, cut_blocks(text) if cut else [text])
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            yield InputError(f"{path}, line {line} is not UTF-8 text (byte {error.start}). Convert the file to UTF-8.")
        except _READ_ERRORS as error:
            yield InputError(f"{path} cannot be read ({error}). Check that it is complete and readable.")


def _read_rows(paths: Sequence[Path], fields: Fields) -> Iterator[Document | InputError]:
    for path in paths:
        try:
            yield from _documents(_csv_rows(path) if _CSV.search(path.name) else _json_rows(path, fields), fields, str(path))
        except _READ_ERRORS as error:
            yield InputError(f"{path} cannot be read ({error}). Check that it is complete and in the format of its suffix.")


def _read_dataset(part: Any, fields: Fields, name: str) -> Iterator[Document | InputError]:
    rows = (dict(zip(batch, row, strict=True)) for batch in part.iter(1000) for row in zip(*batch.values(), strict=True))
    try:
        yield from _documents(((f"row {number}", row) for number, row in enumerate(rows, 1)), fields, name)
    except (*_READ_ERRORS, _datasets().exceptions.DatasetsError) as error:  # all remaining rows are lost: too many to skip
        raise InputError(f"{name} cannot be read ({error}). Check that it is complete, and check the network.") from error


def _documents(rows: Iterator[tuple[str, Any]], fields: Fields, name: str) -> Iterator[Document | InputError]:
    for where, row in rows:
        try:
            yield fields.document(row, f"{name}, {where}")
        except InputError as error:
            yield error


def _json_rows(path: Path, fields: Fields) -> Iterator[tuple[str, Any]]:
    """Rows of JSON lines or of a JSON file: a list, an object that contains a list of objects, or a single object."""
    with _open(path) as file:
        try:
            whole = None if _LINES.search(path.name) else json.load(file)
        except json.JSONDecodeError as error:
            whole = None
            if error.msg != "Extra data":  # "Extra data" indicates JSON lines
                raise
        if whole is None:
            file.seek(0)
            yield from ((f"line {number}", line) for number, line in enumerate(file, 1) if line.strip())
            return
        nested = isinstance(whole, dict) and whole.keys().isdisjoint((fields.text.split(".")[0], "messages"))
        lists = whole.values() if nested else [whole]
        rows = next((part for part in lists if isinstance(part, list) and part and isinstance(part[0], dict)), [whole])
        yield from ((f"item {number}", row) for number, row in enumerate(rows, 1))


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    with _open(path) as file:  # invalid bytes become surrogates, which `Fields` reports
        lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        header = lines.readline()
        rows = csv.DictReader(chain([header], lines), delimiter="\t" if ".tsv" in path.name.lower() else separator(header))
        yield from ((f"line {rows.line_num}", row) for row in rows)
