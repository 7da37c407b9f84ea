"""Texts to measure on: built-in, generated, and files of several kinds."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path

import pytest

from ebt.errors import InputError
from ebt.lab.studies import sets

QUESTIONS = [{"question": "Two plus two?", "answer": "Four."}, {"question": "One?", "answer": "One."}]
TASK = {
    "examples": [{"input": "2 + 2 =", "target_scores": {"5": 0, "4": 1}}, {"input": "1 =", "target_scores": {"1": 1, "0": 0}}]
}


def test_brackets_close_the_last_open_one_and_are_the_same_again() -> None:
    texts = sets.brackets()
    assert texts == sets.brackets()
    assert texts != sets.brackets(seed=1)
    closing = dict(zip("([{", ")]}", strict=True))
    for line in "".join(texts).split():
        pending: list[str] = []
        for sign in line:
            if sign in closing:
                pending.append(closing[sign])
            else:
                assert sign == pending.pop()
        assert not pending
        assert 2 <= len(line) // 2 <= sets.PAIRS
    assert set("".join(texts)) == set("()[]{}\n")


def test_python_source_is_code_without_the_docstrings_that_models_were_trained_on() -> None:
    texts = sets.read(sets.PYTHON_SOURCE)
    assert len(texts) > 30
    assert sum("def " in text for text in texts) > 20
    for text in texts:
        try:
            tree = ast.parse(text)
        except SyntaxError:  # a function of nothing but a docstring has no body left
            continue
        scopes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))]
        assert not [node for node in scopes if ast.get_docstring(node)]


def test_files_of_all_kinds(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in QUESTIONS)
    (tmp_path / "qa.jsonl").write_text(lines)
    (tmp_path / "qa.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "task.json").write_text(json.dumps(TASK))
    (tmp_path / "task.json.gz").write_bytes(gzip.compress(json.dumps(TASK).encode()))
    (tmp_path / "plain.txt").write_text("Über alles.\n")
    (tmp_path / "rows.jsonl").write_text('{"text": "a row"}\n')
    asked = ["Two plus two?\nFour.\n", "One?\nOne.\n"]
    assert sets.read(str(tmp_path / "qa.jsonl")) == sets.read(str(tmp_path / "qa.jsonl.gz")) == asked
    assert sets.read(str(tmp_path / "task.json")) == sets.read(str(tmp_path / "task.json.gz")) == ["2 + 2 = 4\n", "1 = 1\n"]
    assert sets.read(str(tmp_path / "plain.txt")) == ["Über alles.\n"]
    assert sets.read(str(tmp_path / "rows.jsonl")) == ["a row"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xff\xfe\x00", "a.txt"),
        ("a.jsonl", b"", "is empty"),
        ("a.jsonl", b"no json\n", "line 1 is not JSON"),
        ("a.jsonl", b'{"words": "x"}\n', "has no field 'text'"),
        ("a.jsonl.gz", b"no gzip", "cannot be read"),
        ("a.json", b"[]", "not a BIG-bench task"),
        ("a.json", b'{"examples": []}', "has no examples"),
        ("a.json", b'{"examples": [{"input": "x"}]}', "target_scores"),
        ("a.json.gz", b"no gzip", "cannot be read"),
    ],
)
def test_files_that_cannot_be_read_are_named(name: str, content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        sets.read(str(tmp_path / name))


def test_a_text_is_known_by_its_content(tmp_path: Path) -> None:
    one, moved, other = tmp_path / "a.txt", tmp_path / "sub" / "a.txt", tmp_path / "other" / "a.txt"
    for path, text in ((one, "x"), (moved, "x"), (other, "y")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert sets.identity(str(one)) == sets.identity(str(moved)) != sets.identity(str(other))
    assert sets.identity("brackets") == {"source": "brackets"}
    with pytest.raises(InputError, match="give an existing file"):
        sets.identity(str(tmp_path / "none.txt"))
