"""What the documents show runs, and what they point to is there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from small_models import language_folder, sudoku_folder

from ebt.cli.main import COMMANDS
from ebt.cli.training import configure

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = sorted((ROOT / "docs/results").glob("*/*.md"))
PAGES_OF_ANSWERS = [page for page in sorted((ROOT / "docs/results").rglob("*.md")) if not page.stem.endswith("-details")]


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run(code: str, folder: Path) -> None:
    """Run a block as a program of its own."""
    file = folder / "block.py"
    file.write_text(code, encoding="utf-8")
    runpy.run_path(str(file), run_name="block")


PYTHON = [pytest.param(code, id=f"{path.stem}-{i + 1}") for path in DOCUMENTS for i, code in enumerate(blocks(path, "python"))]


@pytest.fixture
def after_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the models that documents load: those of the demo, and one by name; tiny ones, with random weights."""
    sudoku_folder(tmp_path / "runs/demo/models/sudoku-ebt", board=6)
    sudoku_folder(tmp_path / "sudoku-6x6", board=6)
    language_folder(tmp_path / "runs/demo/models/text-ebt")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("after_the_demo")
@pytest.mark.parametrize("code", PYTHON)
def test_the_python_runs(code: str, tmp_path: Path) -> None:
    run(code, tmp_path)


@pytest.mark.usefixtures("after_the_demo")
def test_the_readme_solves_a_board_in_five_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(ROOT / "README.md", "python")[0]
    assert len([line for line in code.splitlines() if line]) == 5
    run(code, tmp_path)
    energies, *board = capsys.readouterr().out.splitlines()
    assert len(energies.split(",")) == 17  # before each of 16 steps, and of the final board
    digits = [int(digit) for digit in re.findall(r"\d", "".join(board))]
    assert len(digits) == 36
    assert (digits[1], digits[3]) == (5, 3)  # givens of the first row


def test_the_configuration_in_the_guide_to_data_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks(ROOT / "docs/guides/data.md", "yaml")
    (tmp_path / "my.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    made = configure(["--config=language/ebt", "--config=my.yaml"])
    assert made.model.recipe.max_steps == 4
    assert (made.datamodule.text_field, made.datamodule.prompt_field) == ("answer", "question")
    assert made.trainer.max_steps == 2000


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_the_links_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (path.parent / link).exists()]
    assert missing == []


def test_the_readme_names_every_command() -> None:
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `ebt ")]
    assert set(re.findall(r"`ebt (\w+)`", "".join(row.split(" | ")[0] for row in rows))) == set(COMMANDS)


def test_the_readme_fits_three_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_documents_stay_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs").rglob("*") if path.is_file()) < 3_000_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_a_page_of_results_opens_with_its_answer(page: Path) -> None:
    text, study = page.read_text(encoding="utf-8"), page.parent.name
    assert (ROOT / f"docs/results/raw/{study}.tar.xz").is_file()
    if not page.stem.endswith("-details"):
        parts = text.split("\n\n")
        assert re.search(r"\d", parts[2])
        assert parts[3].startswith("![")


@pytest.mark.parametrize("page", PAGES_OF_ANSWERS, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_tables_of_results_have_at_most_ten_rows(page: Path) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [table for table in tables if table.count("\n") > 12] == []  # with head and rule
