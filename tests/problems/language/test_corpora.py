"""Sources of documents: what each reads, what each refuses, and the split by document."""

from __future__ import annotations

import gzip
import json
import sysconfig
from collections.abc import Callable
from pathlib import Path

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebt.errors import InputError
from ebt.problems.language.corpora import (
    Document,
    Fields,
    cut_blocks,
    documents_sha256,
    drawn_documents,
    open_source,
    python_docs,
    split_documents,
)
from ebt.problems.language.python_docs import documentation_texts

ROWS = [{"text": "one", "question": "1?"}, {"text": "two", "question": "2?"}, {"text": "  ", "question": "3?"}]
shares = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4)).map(lambda pair: (1 - sum(pair), *pair))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")


def read(source: Path | str, split: str = "train", **fields: str) -> list[Document]:
    return list(open_source(str(source), Fields(**fields))[split])


def write_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = "\n".join(json.dumps(row) for row in rows)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(lines + "\n\n", encoding="utf-8")
    return path


# the embedded corpus


def test_embedded_corpus_is_a_few_megabytes_of_clean_text() -> None:
    documents = python_docs()
    text = "".join(document.text for document in documents)
    assert 1e6 < len(text.encode()) < 6e6
    assert min(len(document.text) for document in documents) >= 200
    assert len(text.encode()) < 1.0001 * len(text)  # hardly a character beyond ASCII
    assert all(character.isprintable() for character in set(text) - {"\n"})
    assert any(document.text.startswith("Module json.decoder\n") for document in documents)
    assert not any(document.text.startswith("Module test.") for document in documents)
    assert any('The "while" statement' in document.text for document in documents)
    assert read("python-docs") == list(documents)


def test_documents_of_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = "This paragraph is long enough to be noticed when another module repeats it word by word."
    for name in ("b.py", "a/__init__.py", "a/test/c.py", "site-packages/d.py", "empty.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        source = f'"""Says   \\x07“hello”.\n\n{long}\n"""\nclass C:\n  def f(self, x=1):\n    "Does f.\\n\\n{"f" * 150}"\n'
        (tmp_path / name).write_text("x = 1" if name == "empty.py" else source + "import nothing_that_exists\n")
    (tmp_path / "broken.py").write_text("def")
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(tmp_path))
    first, *topics = documentation_texts()
    expected = f'Module a\n\nSays   "hello".\n\n{long}\n\nC.f(self, x=1)\n    Does f.\n\n    {"f" * 150}\n'
    assert first == expected
    assert not any(text.startswith("Module b\n") for text in topics)  # b only repeats a
    assert documentation_texts() == [first, *topics]
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="another source"):
        documentation_texts()


# files and folders


def test_text_file_is_cut_at_paragraph_ends(tmp_path: Path) -> None:
    text = "\n".join(f"Paragraph {number}.\nÄ second line.\n" for number in range(1000))
    (tmp_path / "book.txt").write_text(text, encoding="utf-8-sig")
    documents = read(tmp_path / "book.txt")
    assert "".join(document.text for document in documents) == text
    assert all(document.text.startswith("Paragraph") for document in documents)
    assert all(4096 <= len(document.text) < 4196 for document in documents[:-1])


@given(st.text(alphabet="ab \n\r", max_size=300), st.integers(1, 20))
def test_blocks_add_up_to_the_text(text: str, size: int) -> None:
    blocks = cut_blocks(text, size)
    assert "".join(blocks) == text
    assert all(0 < len(block) < 4 * size for block in blocks)


def test_folder_has_one_document_per_text_file(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.md", "a/.hidden/d.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name * 1000)
    with pytest.warns(UserWarning, match=r"1 file\(s\) are left out \(.png\)"):
        documents = read(tmp_path)
    assert documents == [Document("a/c.md" * 1000), Document("b.txt" * 1000)]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_rows_of_a_file(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path / name, ROWS)
    assert read(path) == [Document("one"), Document("two")]  # the blank one is left out
    assert read(path, prompt="question") == [Document("one", "1?"), Document("two", "2?")]
    assert read(path, text="question")[2] == Document("3?")


# Hugging Face datasets


@pytest.mark.parametrize("streaming", [False, True])
def test_dataset_folder_keeps_its_splits(tmp_path: Path, streaming: bool) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.parquet", [{"text": split, "question": "?"}])
    sources = open_source(str(tmp_path), Fields(prompt="question"), streaming)
    assert {split: list(documents) for split, documents in sources.items()} == {
        split: [Document(split, "?")] for split in ("train", "validation", "test")
    }
    assert list(sources["train"]) == list(sources["train"])  # read anew


def test_dataset_saved_to_disk(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "rows")
    assert read(tmp_path / "rows") == [Document("one"), Document("two")]
    datasets.DatasetDict({"train": rows, "dev": rows.select([0]), "other": rows}).save_to_disk(tmp_path / "splits")
    assert set(open_source(str(tmp_path / "splits"))) == {"train", "validation"}
    assert read(tmp_path / "splits", "validation") == [Document("one")]
    datasets.DatasetDict({"a": rows, "b": rows}).save_to_disk(tmp_path / "odd")
    with pytest.raises(InputError, match=r"no split 'train' among \['a', 'b'\]"):
        open_source(str(tmp_path / "odd"))


# refusals


def write(name: str, content: bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


def rows_file(name: str) -> Callable[[Path], Path]:
    return lambda folder: write_rows(folder / name, [{"text": "1"}, {"body": "2"}] if "jsonl" in name else [{"body": "2"}])


REFUSALS = {
    "missing file": (lambda folder: folder / "nothing.txt", {}, "does not exist. Check the path"),
    "empty file": (write("a.txt", b""), {}, "is empty"),
    "blank file": (write("a.txt", b" \n\n "), {}, "is empty"),
    "NUL bytes": (write("a.txt", b"abc\0"), {}, "binary file .byte 3 is NUL."),
    "not UTF-8": (write("a.txt", b"caf\xe9"), {}, r"not UTF-8 text .byte 3.*Convert it"),
    "unknown suffix": (write("a.docx", b"abc"), {}, r"suffix that is not known. Known are .txt.*\.parquet"),
    "prompt of plain text": (write("a.txt", b"abc"), {"prompt": "q"}, "Drop prompt_field"),
    "empty folder": (lambda folder: folder, {}, "holds no file that can be read"),
    "empty JSONL": (write("a.jsonl", b""), {}, "is empty"),
    "malformed JSON": (write("a.jsonl", b'{"text": "a"}\n{"text": \n'), {}, "line 2 is not JSON"),
    "no JSON object": (write("a.jsonl", b'["text"]\n'), {}, "line 1 is not a JSON object"),
    "no text in the field": (write("a.jsonl", b'{"text": 3}\n'), {}, "line 1: the field 'text' holds int"),
    "JSONL without field": (rows_file("a.jsonl"), {}, r"line 2 has no field 'text'; it has \['body'\]. Set text_field"),
    "JSONL without prompt": (rows_file("a.jsonl"), {"prompt": "q"}, "line 1 has no field 'q'.*Set prompt_field"),
    "not gzip": (write("a.jsonl.gz", b'{"text": "a"}'), {}, "cannot be read"),
    "cut gzip": (write("a.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99)[:-9]), {}, "cannot be read"),
    "not Parquet": (write("a.parquet", b"abc"), {}, "cannot be read as Parquet"),
    "Parquet without column": (rows_file("a.parquet"), {}, r"no field 'text'; it has \['body'\]. Set text_field"),
    "dataset without column": (lambda folder: rows_file("a.parquet")(folder).parent, {}, r"no field 'text'.*Set text_field"),
}


@pytest.mark.parametrize(("build", "fields", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_input_and_remedy(
    tmp_path: Path, build: Callable[[Path], Path], fields: dict[str, str], message: str
) -> None:
    path = build(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        read(path, **fields)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("source", ["owner/name", "owner/name:configuration", "python-doc"])
def test_unreachable_dataset(source: str) -> None:
    with pytest.raises(InputError, match=f"{source} cannot be loaded as a dataset .*spelling and the network"):
        open_source(source)


# splits


@given(st.integers(3, 200), st.integers(0, 5), shares)
def test_split_is_disjoint_complete_and_deterministic(count: int, seed: int, fractions: tuple[float, float, float]) -> None:
    documents = [Document(str(number)) for number in range(count)]
    if sum(max(1, round(share * count)) for share in fractions[1:] if share) >= count:
        return
    splits = split_documents(documents, fractions, seed)
    assert sorted((document for split in splits.values() for document in split), key=documents.index) == documents
    for share, split in zip(fractions, splits.values(), strict=True):
        assert abs(len(split) - share * count) <= 2
        assert bool(split) == bool(share)
        assert split == sorted(split, key=documents.index)  # order of the source
    assert split_documents(documents, fractions, seed) == splits


def test_split_depends_on_the_seed() -> None:
    documents = [Document(str(number)) for number in range(100)]
    assert len({documents_sha256(split_documents(documents, seed=seed)["test"]) for seed in range(5)}) == 5


@given(st.integers(0, 300), st.integers(0, 5), shares)
def test_stream_is_shared_out_once(count: int, seed: int, fractions: tuple[float, float, float]) -> None:
    documents = [Document(str(number)) for number in range(count)]
    parts = [list(drawn_documents(documents, split, fractions, seed)) for split in ("train", "validation", "test")]
    assert sorted((document for part in parts for document in part), key=documents.index) == documents
    assert all(abs(len(part) - share * count) <= 3 * count**0.5 for part, share in zip(parts, fractions, strict=True))


@pytest.mark.parametrize("fractions", [(0.9, 0.05), (0.9, 0.2, 0.1), (1.1, -0.1, 0.0), (0.0, 0.5, 0.5)])
def test_shares_must_add_up(fractions: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="add up to 1"):
        split_documents([Document("a")] * 9, fractions)


def test_too_few_documents_to_split() -> None:
    with pytest.raises(InputError, match=r"2 document\(s\), too few.*validation_source"):
        split_documents([Document("a"), Document("b")])
    assert len(split_documents([Document("a")], (1, 0, 0))["train"]) == 1


def test_sha256_tells_documents_apart() -> None:
    variants = [[Document("ab")], [Document("a"), Document("b")], [Document("b", "a")], [Document("b"), Document("a")]]
    assert len({documents_sha256(documents) for documents in variants}) == len(variants)
