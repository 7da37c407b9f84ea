"""The answers on the pages of results are those that the present code gives to their verdicts."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from ebt.lab.studies.page import Verdict

RESULTS = Path(__file__).parents[2] / "docs" / "results"
DETAILS = sorted(RESULTS.glob("*/*-details.md"))


@pytest.mark.parametrize("details", DETAILS, ids=lambda path: path.parent.name)
def test_the_answer_is_that_of_the_verdicts(details: Path) -> None:
    name = details.stem.removesuffix("-details")
    found = re.findall(r"^\* \*\*(met|missed)\*\*: (.*?)\. (.*)\.$", details.read_text(encoding="utf-8"), re.MULTILINE)
    verdicts = [Verdict(about, mark == "met", text) for mark, about, text in found]
    study = importlib.import_module("ebt.lab.scaling.report" if name == "scaling" else f"ebt.lab.studies.{name}")
    page = (details.parent / f"{name}.md").read_text(encoding="utf-8").split("\n\n")
    assert len(verdicts) >= 4
    assert page[2] == study.answer(verdicts)
