"""Sources of documents: what each reads, what each refuses, and the split by document."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow
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


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    content = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    if path.name.startswith("list"):
        content = json.dumps({"version": 1, "data": rows})
    if ".csv" in path.name or ".tsv" in path.name:
        file = io.StringIO()
        writer = csv.DictWriter(file, rows[0], delimiter="\t" if ".tsv" in path.name else ",")
        writer.writeheader()
        writer.writerows(rows)
        content = file.getvalue()
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".arrow":
        with (
            pyarrow.OSFile(str(path), "wb") as sink,
            pyarrow.ipc.new_stream(sink, pyarrow.Table.from_pylist(rows).schema) as out,
        ):
            out.write_table(pyarrow.Table.from_pylist(rows))
    else:
        path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
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
    for name in ("b.txt", "a/c.md", "a/.hidden/d.txt", "Makefile", "e.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name * 1000)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.warns(UserWarning, match=r"1 bad part.*picture.png"):
        documents = read(tmp_path)
    assert documents == [Document(name * 1000) for name in ("Makefile", "a/c.md", "b.txt", "e.csv")]


@pytest.mark.parametrize("name", ["code.py", "notes", "notes.txt.gz"])
def test_any_file_of_text(tmp_path: Path, name: str) -> None:
    data = "x = 'ä'\r\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert read(tmp_path / name) == [Document("x = 'ä'\r\n")]


@pytest.mark.parametrize(
    "name", ["r.jsonl", "r.jsonl.gz", "r.json", "list.json", "r.csv", "r.tsv", "r.csv.gz", "r.parquet", "r.arrow"]
)
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


@pytest.mark.parametrize("name", ["{}.csv", "{}.json", "{}.jsonl.gz"])
def test_folder_of_data_files(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / name.format("train"), ROWS)
    write_rows(tmp_path / name.format("test"), ROWS[1:])
    (tmp_path / "README.md").write_text("# Rows")
    assert read(tmp_path) == [Document("one"), Document("two")]
    assert read(tmp_path, "test", prompt="question") == [Document("two", "2?")]


# fields


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]


@pytest.mark.parametrize("name", ["r.jsonl", "r.parquet"])
def test_nested_fields_and_conversations(tmp_path: Path, name: str) -> None:
    path = write_rows(tmp_path / name, [{"messages": CHAT, "a": {"b": "deep", "c": ["x", "y"]}, "d.e": "flat"}])
    assert read(path) == read(path, text="messages") == [Document("user: hi\nassistant: yes\n")]
    assert read(path, text="a.b", prompt="a.c.1") == [Document("deep", "y")]
    assert read(path, text="d.e", prompt="messages.0.content") == [Document("flat", "hi")]
    shouted = Fields(chat=lambda messages: "!".join(message["content"] for message in messages))
    assert list(open_source(str(path), shouted)["train"]) == [Document("hi!yes")]


def test_json_file_of_one_object(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"messages": CHAT, "tags": [{"text": "no"}]}, indent=1))
    assert read(tmp_path / "one.json") == [Document("user: hi\nassistant: yes\n")]


def test_values_of_tables_stay_as_they_are_written(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "r.csv", [{"text": text} for text in ("007", "NA", "1.50", 'a "b",\nc', "x" * 200_000)])
    assert [document.text for document in read(path)] == ["007", "NA", "1.50", 'a "b",\nc', "x" * 200_000]
    for separator in ";\t":
        (tmp_path / "s.csv").write_text(f'id{separator}text\n1{separator}"a,b;c\td"\n')
        assert read(tmp_path / "s.csv") == [Document("a,b;c\td")]
    path = write_rows(tmp_path / "r.jsonl", [{"text": "2020-01-01"}])
    assert read(path) == [Document("2020-01-01")]


# bad input


def write(name: str, content: bytes) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return build


BAD = {  # what is skipped beside the good document "good", and what the warning names
    "malformed JSON": (write("a.jsonl", b'{"text": "good"}\n{"text": \n'), "a.jsonl, line 2"),
    "no JSON object": (write("a.jsonl", b'["text"]\n{"text": "good"}\n'), "a.jsonl, line 1"),
    "no field": (write("a.jsonl", b'{"body": "1"}\n{"text": "good"}'), "a.jsonl, line 1 .*'body'"),
    "no text": (write("a.jsonl", b'{"text": 3}\n{"text": "good"}'), "a.jsonl, line 1"),
    "half a character": (write("a.jsonl", b'{"text": "abc \\ud800 x"}\n{"text": "good"}'), "a.jsonl, line 1"),
    "bytes in JSON": (write("a.jsonl", b'{"text": "caf\xe9"}\n{"text": "good"}'), "a.jsonl, line 1"),
    "bad conversation": (write("a.jsonl", b'{"text": "good"}\n{"text": [{"role": "user"}]}'), "a.jsonl, line 2"),
    "bytes in CSV": (write("a.csv", b"text\ncaf\xe9\ngood"), "a.csv, line 2"),
    "long row of CSV": (write("a.csv", b"text,n\ngood,1\nbad,2,3"), "a.csv, line 3"),
    "short row of CSV": (write("a.csv", b"n,text\n1,good\n2"), "a.csv, line 3"),
    "null in a table": (
        lambda folder: write_rows(folder / "a.parquet", [{"text": "good"}, {"text": None}]),
        "a.parquet, row 2",
    ),
    "cut gzip": (write("a.jsonl.gz", gzip.compress(b'{"text": "good"}\n' + bytes(9999))[:-9]), "a.jsonl.gz"),
    "text of a folder": (
        lambda folder: (write("a.txt", b"good")(folder), write("b.txt", b"one\ntwo\ncaf\xe9")(folder))[0].parent,
        "b.txt, line 3",
    ),
    "line of a folder": (lambda folder: write("a.jsonl", b'{"text": "good"}\n{"te')(folder).parent, "a.jsonl, line 2"),
}


@pytest.mark.parametrize(("build", "named"), BAD.values(), ids=BAD)
def test_bad_parts_are_skipped_or_refused(tmp_path: Path, build: Callable[[Path], Path], named: str) -> None:
    source = str(build(tmp_path))
    with pytest.warns(UserWarning, match=named) as told:
        assert list(open_source(source)["train"]) == [Document("good")]
    assert len(told) == 1
    with pytest.raises(InputError, match=named):
        list(open_source(source, on_error="refuse")["train"])


def test_one_warning_counts_all_and_names_the_first(tmp_path: Path) -> None:
    path = write("a.jsonl", b'{"text": "good"}\n' + b"bad\n" * 50)(tmp_path)
    with pytest.warns(UserWarning, match=r"50 bad.*line 2 .*line 3 .*line 4 ") as told:
        read(path)
    assert len(told) == 1
    assert "line 5" not in str(told[0].message)
    with pytest.raises(InputError, match="on_error='no'"):
        list(open_source(str(path), on_error="no")["train"])  # type: ignore[arg-type]


def cut_table(path: Path) -> Path:
    data = bytearray(write_rows(path, [{"text": str(number) * 999} for number in range(99)]).read_bytes())
    data[4:2000] = bytes(1996)  # the footer is whole
    path.write_bytes(data)
    return path


REFUSALS = {
    "missing file": (lambda folder: folder / "nothing.txt", {}, "no such file"),
    "missing folder": (lambda folder: folder / "nothing", {}, "no such file or folder"),
    "empty file": (write("a.txt", b""), {}, "is empty"),
    "blank file": (write("a.txt", b" \n\n "), {}, "is empty"),
    "NUL bytes": (write("a.docx", b"abc\0"), {}, "byte 3"),
    "not UTF-8": (write("a.txt", b"a\ncaf\xe9"), {}, "line 2"),
    "prompt of plain text": (write("a.txt", b"abc"), {"prompt": "q"}, "prompt_field='q'"),
    "field of plain text": (write("a.txt", b"abc"), {"text": "q"}, "text_field='q'"),
    "empty folder": (lambda folder: folder, {}, "has no readable files"),
    "empty JSONL": (write("a.jsonl", b""), {}, "is empty"),
    "malformed list": (write("a.json", b'[{"text": "a"},\n {"text": ]'), {}, "line 2"),
    "JSONL without prompt": (write("a.jsonl", b'{"text": "a"}'), {"prompt": "q"}, "no field 'q'.*prompt_field"),
    "cut xz": (write("a.txt.xz", lzma.compress(b"abc" * 999)[:-30]), {}, "cannot be read"),
    "damaged xz": (write("a.txt.xz", lzma.compress(b"abc" * 999)[:20] + bytes(99)), {}, "cannot be read"),
    "zip": (write("a.txt.zip", b"PK\x03\x04"), {}, "zip archive: unpack it"),
    "not gzip": (write("a.txt.gz", b"abc"), {}, "gzip"),
    "cut Parquet": (lambda folder: cut_table(folder / "a.parquet"), {}, "cannot be read"),
    "not Parquet": (write("a.parquet", b"abc"), {}, "Parquet"),
    "Parquet without column": (
        lambda folder: write_rows(folder / "a.parquet", [{"b": "2"}]),
        {},
        r"'text'.*\['b'\].*text_field",
    ),
    "nested field": (write("a.jsonl", b'{"a": {"b": "c"}}'), {"text": "a.c"}, "no field 'a.c'"),
}


@pytest.mark.parametrize(("build", "fields", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals_name_the_input(tmp_path: Path, build: Callable[[Path], Path], fields: dict[str, str], message: str) -> None:
    path = build(tmp_path)
    with pytest.raises(InputError, match=message) as refusal:
        read(path, **fields)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("source", ["owner/name", "owner/name:configuration", "python-doc"])
def test_unreachable_dataset(source: str) -> None:
    with pytest.raises(InputError, match=f"^no such file or folder: {source}.*network"):
        open_source(source)


def test_path_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *args, **settings: pytest.fail("the hub is asked"))
    Path("texts").mkdir()
    for source in ("texts/mine", "./mine", "/nowhere", "a/b/c", "mine.csv", "nothing.py"):
        with pytest.raises(InputError, match=f"^no such file or folder: {source}"):
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


@pytest.mark.parametrize(("end", "unit"), [("\n\n", "paragraphs"), ("\n", "lines")])
def test_short_text_is_split_by_its_parts(end: str, unit: str) -> None:
    whole = Document(end.join(f"Part {number}." for number in range(20)))
    with pytest.warns(UserWarning, match=f"20 {unit}"):
        splits = split_documents([whole])
    assert [len(part) for part in splits.values()] == [18, 1, 1]
    texts = [document.text.strip() for part in splits.values() for document in part]
    assert sorted(texts) == sorted(f"Part {number}." for number in range(20))
    assert split_documents([whole], (1, 0, 0))["train"] == [whole]
    with pytest.raises(InputError, match=r"1 document\(s\), too few"):
        split_documents([Document(whole.text, "a prompt")])


def test_too_few_documents_to_split() -> None:
    with pytest.raises(InputError, match=r"2 document\(s\), too few.*validation_source"):
        split_documents([Document("a"), Document("b")])
    assert len(split_documents([Document("a")], (1, 0, 0))["train"]) == 1


def test_sha256_tells_documents_apart() -> None:
    variants = [[Document("ab")], [Document("a"), Document("b")], [Document("b", "a")], [Document("b"), Document("a")]]
    assert len({documents_sha256(documents) for documents in variants}) == len(variants)
