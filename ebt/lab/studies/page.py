"""The page of a study: tables, verdicts, pictures, and how it was made."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ebt.evaluation.statistics import Estimate
from ebt.files import write_json, write_text
from ebt.lab.studies.runs import Result

ROWS = 10
"""Rows of a table of the first page, at most."""
UNJUDGED = "No criterion applies to these models; the table has what was measured."


@dataclass(frozen=True)
class Table:
    """A table whose first column has names."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    """Explanation for the reader."""


@dataclass(frozen=True)
class Verdict:
    """A criterion and whether it is met. The text states value and limit."""

    name: str
    met: bool
    text: str

    @property
    def told(self) -> str:
        """The text without the limit."""
        return self.text.split(" (limit")[0]

    @property
    def value(self) -> str:
        """What is measured, without the words before it."""
        return self.told.rpartition(": ")[2]


def above(name: str, what: str, value: Estimate, limit: float = 0.0, unit: str = "%") -> Verdict:
    """Return a verdict that is met if the whole interval lies above the limit. A value without interval does not meet it."""
    met = value.low is not None and value.low > limit
    return Verdict(name, met, f"{what}: {value.text(2, sign=True)} {unit} (limit: the whole interval above {limit:g})")


def shown(claim: str, cases: Mapping[str, tuple[bool, str]], word: str = "for", again: str = "for") -> str:
    """Return sentences that tell for which cases a claim is not shown, and for which it is.

    Args:
        claim: The claim, to stand after "that".
        cases: Whether it is shown, and the value, by case.
        word: What stands between the claim and the cases.
        again: What stands before the cases of the second sentence, where the first one tells what is not shown.
    """
    missed, met = ([f"{case} ({value})" for case, (one, value) in cases.items() if one == wanted] for wanted in (False, True))
    sentences = [f"These runs do not show that {claim} {word} {listed(missed, 'or')}."] if missed else []
    if met:
        beginning = f"They do show it {again}" if missed else f"These runs show that {claim} {word}"
        sentences.append(f"{beginning} {listed(met, 'and')}.")
    return " ".join(sentences)


def listed(parts: Sequence[str], word: str) -> str:
    """Join parts with commas, and the last one with a word."""
    return f" {word} ".join(([", ".join(parts[:-1])] if len(parts) > 1 else []) + [*parts[-1:]])


def cases(verdicts: Iterable[Verdict], before: str = "", after: str = "") -> dict[str, tuple[bool, str]]:
    """Return the verdicts whose names begin and end so, by the rest of their names, as ``shown`` takes them."""
    return {
        verdict.name.removeprefix(before).removesuffix(after): (verdict.met, verdict.value)
        for verdict in verdicts
        if verdict.name.startswith(before) and verdict.name.endswith(after)
    }


@dataclass(frozen=True)
class Page:
    """The content of a study's page."""

    title: str
    question: str
    setting: Sequence[str]
    """Sentences on the method."""
    tables: Sequence[Table]
    verdicts: Sequence[Verdict]
    pictures: Mapping[str, str]
    """Captions by file name. The first one is on the first page."""
    answer: str
    """The answer in two sentences. What is not shown comes first."""
    front: Table | None = None
    """The table of the first page. None takes the first one of at most ten rows."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind the tables, for ``results.json``."""


def publish(name: str, page: Page, command: str, results: Iterable[Result], out: Path) -> list[Path]:
    """Write ``results.json``, ``NAME.md`` with the answer, and ``NAME-details.md`` with everything else."""
    results = list(results)
    about = {"command": command, "date": datetime.date.today().isoformat(), "made": _made(results)}
    content = {"study": name, **about, "verdicts": [asdict(verdict) for verdict in page.verdicts], **page.numbers}
    write_json(content, out / "results.json")
    return [*write_pages(name, page, about, out), out / "results.json", *(out / picture for picture in page.pictures)]


def write_pages(name: str, page: Page, about: Mapping[str, Any], out: Path) -> list[Path]:
    """Write ``NAME.md`` and ``NAME-details.md``.

    Args:
        name: Name of the study.
        page: The content.
        about: How it was made: ``command``, ``date`` and ``made`` (machines, versions, hours).
        out: Folder of the pages.
    """
    first, details = out / f"{name}.md", out / f"{name}-details.md"
    write_text(_first(page, details.name), first)
    write_text(_details(page, about, first.name), details)
    return [first, details]


def _made(results: Sequence[Result]) -> dict[str, Any]:
    """Return machines, versions and total time of the runs."""
    machines = list(dict.fromkeys(f"{result.machine['processor']}, {result.machine['cores']} cores" for result in results))
    versions: dict[str, str] = {}
    for package in results[0].machine["versions"]:
        versions[package] = ", ".join(sorted({result.machine["versions"][package] for result in results}))
    return {"machines": machines, "versions": versions, "hours": sum(result.seconds for result in results) / 3600}


def _first(page: Page, details: str) -> str:
    """Return the page that most people read: the answer, a picture and a small table."""
    parts = [f"# {page.title}", f"*{page.question}*", page.answer or UNJUDGED]
    for picture, caption in list(page.pictures.items())[:1]:
        parts += [f"![{caption}]({picture})", f"*{caption}*"]
    table = page.front or next((table for table in page.tables if len(table.rows) <= ROWS), None)
    if table is not None:
        parts += [f"## {table.title}", _rows(table), *([table.note] if table.note else [])]
    met = sum(verdict.met for verdict in page.verdicts)
    judged = f"{met} of {len(page.verdicts)} criteria are met. " if page.verdicts else ""
    parts.append(f"{judged}[Details]({details}): the method, every criterion, all tables and pictures, and how to repeat it.")
    return "\n\n".join(parts) + "\n"


def _details(page: Page, about: Mapping[str, Any], first: str) -> str:
    made = about["made"]
    sentences = "\n".join(f"* {sentence}" for sentence in page.setting)
    parts = [f"# {page.title}: details", f"{page.question} [The answer]({first})", sentences]
    if page.verdicts:
        lines = [f"* **{'met' if verdict.met else 'missed'}**: {verdict.name}. {verdict.text}." for verdict in page.verdicts]
        parts += ["## Verdicts", "\n".join(lines)]
    for table in page.tables:
        parts += [f"## {table.title}", _rows(table), *([table.note] if table.note else [])]
    for picture, caption in page.pictures.items():
        parts += [f"![{caption}]({picture})", f"*{caption}*"]
    versions = ", ".join(f"{package} {number}" for package, number in made["versions"].items())
    parts += [
        "## How it was made",
        f"    {about['command']}",
        f"{about['date']}, {'; '.join(made['machines'])}; one thread for each run, {made['hours']:.2f} hours of runs in all. "
        f"Versions: {versions}. All numbers are in `results.json`.",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(table: Table) -> str:
    marks = ["---", *["---:"] * (len(table.head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (table.head, marks, *table.rows))
