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


def above(name: str, what: str, value: Estimate, limit: float = 0.0, unit: str = "%") -> Verdict:
    """Return a verdict that is met if the whole interval lies above the limit. A value without interval does not meet it."""
    met = value.low is not None and value.low > limit
    return Verdict(name, met, f"{what}: {value.text(2, sign=True)} {unit} (limit: the whole interval above {limit:g})")


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
    """Captions by file name."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind the tables, for ``results.json``."""


def publish(name: str, page: Page, command: str, results: Iterable[Result], out: Path) -> list[Path]:
    """Write ``results.json`` and ``NAME.md``."""
    results = list(results)
    about = {"command": command, "date": datetime.date.today().isoformat(), "made": _made(results)}
    content = {"study": name, **about, "verdicts": [asdict(verdict) for verdict in page.verdicts], **page.numbers}
    write_json(content, out / "results.json")
    write_text(_markdown(page, about), out / f"{name}.md")
    return [out / f"{name}.md", out / "results.json", *(out / picture for picture in page.pictures)]


def _made(results: Sequence[Result]) -> dict[str, Any]:
    """Return machines, versions and total time of the runs."""
    machines = list(dict.fromkeys(f"{result.machine['processor']}, {result.machine['cores']} cores" for result in results))
    versions: dict[str, str] = {}
    for package in results[0].machine["versions"]:
        versions[package] = ", ".join(sorted({result.machine["versions"][package] for result in results}))
    return {"machines": machines, "versions": versions, "hours": sum(result.seconds for result in results) / 3600}


def _markdown(page: Page, about: Mapping[str, Any]) -> str:
    made = about["made"]
    parts = [f"# {page.title}", page.question, "\n".join(f"* {sentence}" for sentence in page.setting)]
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
