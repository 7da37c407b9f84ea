"""All studies through the command, on a small text, with a few updates and shared models; and what users get wrong."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from here import no_pool

from ebt.cli.main import main
from ebt.lab.studies import STUDIES
from ebt.lab.studies.command import told
from ebt.lab.studies.page import listed, shown
from ebt.lab.studies.sets import BRACKETS, PYTHON_SOURCE

PICTURES = {
    "stability": {"final-ours.png", "losses-ours.png", "final-reference.png", "losses-reference.png"},
    "ablation": {"gains.png", "steps.png"},
    "ood": {"gain.png", "gain-bold.png", "rival.png", "softer.png", "steps.png"},
    "uncertainty": {"steps.png", "risk.png", "texts.png", "tokens.png"},
    "verifiers": {"rules.png"},
}
RUNS = {"stability": (8, 0), "ablation": (20, 0), "ood": (63, 1), "uncertainty": (8, 4), "verifiers": (6, 3)}
"""With one seed (stability: two): how many there are, and how many were made by the studies before."""
SHORT = ["--quick", "--jobs", "1", "--updates", "1", "--context-length", "16"]


@pytest.fixture(scope="module", autouse=True)
def _few_sets() -> Iterator[None]:
    """All built-in sets are tested by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.ood.BUILT_IN", (PYTHON_SOURCE, BRACKETS))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    words = ["energy", "falls", "while", "the", "model", "thinks", "about", "what", "comes", "next"]
    text = ["".join(f"{words[(i * j) % len(words)]} {i + j}, " for j in range(40)) + "\n\n" for i in range(60)]
    (folder / "text.txt").write_text("".join(text))
    (folder / "other.txt").write_text("Ein anderer Text, der von etwas ganz anderem handelt.\n" * 20)
    return folder


def options(folder: Path, name: str) -> list[str]:
    """What a study is called with."""
    common = [*SHORT, "--train", str(folder / "text.txt"), "--out", str(folder / name)]
    if name == "stability":
        return [*common, "--seeds", "2"]
    common += ["--seeds", "1", "--models", str(folder / "models"), "--contexts", "4", "--steps", "1,2,3", "--candidates", "3"]
    return [*common, "--set", f"other={folder / 'other.txt'}"] if name == "ood" else common


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebt.lab.studies.runs.pool", no_pool)


@pytest.fixture(scope="module")
def made(folder: Path) -> dict[str, str]:
    """What each study printed: the first with a pool, as users have it, the others in this process."""
    printed: dict[str, str] = {}

    def make(name: str) -> None:
        with redirect_stdout(io.StringIO()) as out:
            assert main(["study", name, *options(folder, name)]) == 0
        printed[name] = out.getvalue()

    make("ablation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.runs.pool", no_pool)
        for name in ("ood", "uncertainty", "verifiers", "stability"):
            make(name)
    return printed


@pytest.mark.parametrize("name", PICTURES)
def test_a_study_leaves_a_page_with_pictures_and_numbers(name: str, folder: Path, made: dict[str, str]) -> None:
    out = folder / name
    page = (out / f"{name}-details.md").read_text()
    assert {path.name for path in out.glob("*.png")} == PICTURES[name] == set(re.findall(r"\]\((.*\.png)\)", page))
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    assert f"ebt study {name} --quick" in page
    assert all(word in page for word in ("torch 2.", "Seeds 0", "cores", "one thread"))
    assert page.count("\n| ---") == page.count("\n## ") - 2  # a table each, but for verdicts and how it was made
    assert "nan" not in page
    results = json.loads((out / "results.json").read_text())
    assert results["study"] == name
    assert [verdict["met"] for verdict in results["verdicts"]] == [
        mark == "met" for mark in re.findall(r"\* \*\*(\w+)\*\*", page)
    ]
    assert len(results["verdicts"]) >= 2


@pytest.mark.parametrize("name", PICTURES)
def test_the_first_page_opens_with_the_answer_and_a_picture(name: str, folder: Path, made: dict[str, str]) -> None:
    page = (folder / name / f"{name}.md").read_text()
    title, question, answer, picture, *_ = page.split("\n\n")
    assert (title[:2], question[0], picture[:2]) == ("# ", "*", "![")
    assert re.search(r"\d", answer)
    assert page.count("![") == 1
    assert len(re.findall(r"^\| ", page, re.MULTILINE)) <= 12  # ten rows, head and rule
    assert f"({name}-details.md)" in page


def test_what_is_not_shown_comes_first() -> None:
    found = {"A": (True, "+1 %"), "B": (False, "-1 %"), "C": (True, "+2 %")}
    told = "These runs do not show that it helps for B (-1 %). They do show it for A (+1 %) and C (+2 %)."
    assert shown("it helps", found) == told
    assert shown("it helps", {"A": found["A"]}, "with") == "These runs show that it helps with A (+1 %)."
    assert listed(["A", "B", "C"], "or") == "A, B or C"
    assert shown("it helps", {}) == ""


@pytest.mark.parametrize("name", RUNS)
def test_models_are_trained_once_for_all(name: str, made: dict[str, str]) -> None:
    runs, before = RUNS[name]
    assert f"{runs} runs, {before} of them finished before." in made[name]


def test_a_second_call_makes_nothing_and_says_the_same(
    folder: Path, made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    files = {path: path.stat().st_mtime_ns for kind in ("raw", "models") for path in folder.rglob(f"{kind}/*.json")}
    before = json.loads((folder / "ablation" / "results.json").read_text())
    assert len(files) > 20
    assert main(["study", "ablation", *options(folder, "ablation")]) == 0
    assert "20 runs, 20 of them finished before." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert json.loads((folder / "ablation" / "results.json").read_text()) == before


@pytest.mark.parametrize("name", ["uncertainty", "verifiers"])
def test_runs_of_before_a_score_make_a_page_without_it(name: str, folder: Path, made: dict[str, str], tmp_path: Path) -> None:
    score = {"uncertainty": "last move", "verifiers": "smallest last move"}[name]
    older = tmp_path / name
    shutil.copytree(folder / name, older)
    for path in (older / "raw").glob("ebt*.json"):
        result = json.loads(path.read_text())
        for part in [result["values"]["detection"]] if name == "uncertainty" else result["values"].values():
            del part[score]
        path.write_text(json.dumps(result))
    assert main(["study", name, *options(folder, name), "--out", str(older)]) == 0
    before, after = (
        re.findall(r"^\|.*", (out / f"{name}-details.md").read_text(), re.MULTILINE) for out in (older, folder / name)
    )
    assert before == [row for row in after if score not in row]
    assert len(before) < len(after)


@pytest.mark.usefixtures("here")
def test_a_lost_result_is_made_again_alike(folder: Path, made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    lost = sorted((folder / "uncertainty" / "raw").glob("ebt-s2*"))[0]
    values = json.loads(lost.read_text())["values"]
    lost.unlink()
    assert main(["study", "uncertainty", *options(folder, "uncertainty")]) == 0
    assert "8 runs, 7 of them finished before." in capsys.readouterr().out
    assert json.loads(lost.read_text())["values"] == values


def test_the_published_parameterisation_starts_above_guessing_and_ours_at_it(folder: Path, made: dict[str, str]) -> None:
    results = json.loads((folder / "stability" / "results.json").read_text())
    first = {
        kind: [run["first"] for run in results["runs"] if run["parameterisation"] == kind] for kind in ("ours", "reference")
    }
    assert first["ours"] == pytest.approx([1] * 4)
    assert min(first["reference"]) > 1.5


def test_losses_agree_between_studies(folder: Path, made: dict[str, str]) -> None:
    """Both measure Transformer++ on the same half of the held-out text."""
    out_of = json.loads((folder / "ood" / "results.json").read_text())["nats"]["transformer-pp"]["lowest"]["held-out"]
    found = json.loads((folder / "uncertainty" / "results.json").read_text())["measured"]["transformer-pp"]
    assert [one["nats"] for one in found] == pytest.approx(out_of, rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["odd"], "there is no study 'odd': did you mean `ebt study ood`?"),
        (["everything"], f"there is no study 'everything': choose one of {', '.join(STUDIES)}."),
        (["ood", "--set", "other"], "--set other is not a name and a file: write --set NAME=FILE."),
        (["ood", "--set", "x=/no/such/file.txt"], "/no/such/file.txt cannot be read"),
        (["ood", "--set", "brackets=text.txt"], "two sets with the name brackets"),
        (["ood", "--sets", "empty"], "--sets empty has no files of type .txt"),
        (["ablation", "--train", "/no/such/file.txt"], "/no/such/file.txt cannot be read"),
        (["ablation", "--candidates", "1"], "'1' is not an integer of at least 2"),
        (["stability", "--recipes", "s3"], "'s3' is not one of own, s1, s2"),
        (["stability", "--lr", "0"], "'0' is not a number above 0"),
        (["verifiers", "--seeds", "0"], "'0' is not an integer of at least 1"),
    ],
)
def test_what_is_wrong_is_told(
    arguments: list[str], reason: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir(exist_ok=True)
    monkeypatch.chdir(folder)
    assert main(["study", *arguments]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("blank.txt", " \n", "blank.txt is empty"),
        ("short.txt", "too short", "short.txt has 0 full contexts of 16 tokens, but --contexts is 4"),
    ],
)
def test_a_set_that_cannot_be_measured_is_named(
    name: str, content: str, reason: str, folder: Path, made: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_text(content)
    assert main(["study", "ood", *options(folder, "ood"), "--set", f"bad={folder / name}"]) == 2
    assert reason in capsys.readouterr().err


def test_a_broken_file_is_refused(folder: Path, made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    broken = sorted((folder / "verifiers" / "raw").glob("*.json"))[0]
    whole = broken.read_text()
    broken.write_text(whole[: len(whole) // 2])
    assert main(["study", "verifiers", *options(folder, "verifiers")]) == 2
    assert f"{broken} is not a result of this run" in capsys.readouterr().err
    broken.write_text(whole)


def test_help_has_an_example_and_waits_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; from ebt.cli.main import main; main(['study', '--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "False"
    assert all(f"\n  {name} " in done.stdout for name in STUDIES)
    for name in STUDIES:
        with pytest.raises(SystemExit):
            main(["study", name, "--help"])
        assert f"example:\n  ebt study {name}" in capsys.readouterr().out


def test_a_page_tells_no_folders_of_its_machine() -> None:
    words = [
        "ebt",
        "study",
        "ood",
        "--train",
        "/data/my texts/a.txt",
        "--set",
        "german=../b/de.txt",
        "--sets=../texts",
        "--steps",
        "1,2",
    ]
    told_words = "ebt study ood --train a.txt --set german=de.txt --sets=texts --steps 1,2"
    assert told(words) == told_words
    assert told(["ebt", "scaling", "--out", "runs/here", "--axis", "data"]) == "ebt scaling --out runs/here --axis data"
