"""Files that services read: workflows, citation, templates, changelog. Each is valid, and what it names exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import ebt

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted(GITHUB.glob("workflows/*.yml"))
FORMS = [path for path in sorted(GITHUB.glob("ISSUE_TEMPLATE/*.yml")) if path.stem != "config"]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path: Path) -> None:
    workflow = read(path)
    assert workflow[True]  # YAML reads the key `on` as true
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert ("uses" in job) or job["timeout-minutes"]
        assert set(job.get("needs", "").split()) <= workflow["jobs"].keys()
        if "uses" in job:
            assert True in read(ROOT / job["uses"])
            assert "workflow_call" in read(ROOT / job["uses"])[True]
    for step in steps(workflow):
        assert len(step.keys() & {"run", "uses"}) == 1
        for script in re.findall(r"\.ci/\w+", step.get("run", "")):
            assert os.access(ROOT / script, os.X_OK)
        assert re.fullmatch(r"(?:\./|[\w-]+/[\w./-]+@).+|", step.get("uses", ""))


def test_tests_run_on_the_oldest_and_the_newest_versions() -> None:
    matrix = read(GITHUB / "workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert [entry["versions"] for entry in matrix] == ["oldest", "newest"]
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest is not None
    assert matrix[0]["python"] == oldest[1]


def test_a_tag_publishes_without_a_secret() -> None:
    release = read(GITHUB / "workflows/release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert all("secrets." not in path.read_text() for path in WORKFLOWS)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms(path: Path) -> None:
    form = read(path)
    assert form["name"]
    assert form["description"]
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names)) > 0
    for field in form["body"]:
        assert field["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert field["attributes"]["label"]


def test_citation() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    assert "2507.02092" in paper["url"]
    assert paper["authors"]


def test_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(.+?)\](?: - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


def test_hooks_run_the_checks_of_make() -> None:
    hooks = [hook["id"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {"ruff-check", "ruff-format", "mypy"} <= set(hooks)


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert re.match(r"\d+\.\d+|0\+unknown$", ebt.__version__)
    alone = [sys.executable, "-S", "-c", "import ebt; print(ebt.__version__)"]  # without site-packages
    done = subprocess.run(alone, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    assert done.stdout == "0+unknown\n"
