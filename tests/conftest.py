"""Settings that all tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, for all threads and programs: the tests' tensors are tiny

import torch

hypothesis.settings.register_profile("ebt", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("ebt")
gc.disable()  # until all tests are collected: what is imported stays
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False  # every program that a test starts would compile the library again
HOME = TemporaryDirectory(prefix="huggingface-")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": HOME.name}  # read when the hub's package is imported, and never again


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """A trainer of several processes leaves variables and a group behind that later ones, and other programs, would obey."""
    before = dict(os.environ)
    yield
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="module")
def float64() -> Iterator[None]:
    """Double precision by default, for exact comparisons."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Benchmark data beside the checkout, which few machines have."""
MAY_SKIP = ("needs CUDA", "needs hatchling", "needs Chromium", *(() if DATA.exists() else ("needs the benchmark data",)))


SLOW = (
    "benchmarks",
    "cli",
    "examples",
    "interop",
    "lab",
    "nn/test_flat_start.py",
    "problems/language/test_generation.py",
    "problems/test_auto.py",
    "problems/test_outside.py",
    "test_learning.py",
    "test_settings.py",
    "thinking/test_convergence.py",
    "training/test_precision.py",
)
"""Where tests run programs or train for seconds; single tests elsewhere have the marker ``slow`` themselves."""
LONGEST = (
    "training/test_plan.py",
    "benchmarks/test_speed.py",
    "test_settings.py",
    "training/test_sharding.py",
    "serving/test_page_in_browser.py",
    "cli/test_fit.py",
    "training/test_compiling.py",
    "nn/test_contract.py",
    "problems/test_outside.py",
    "thinking/test_gradients.py",
    "problems/language/test_causal_lm.py",
    "training/test_precision.py",
    "lab/test_demo.py",
    "thinking/test_adjoint.py",
    "lab/studies/test_scaling_study.py",
    "benchmarks/test_gpu.py",
    "nn/test_flat_start.py",
    "cli/test_plan_command.py",
    "problems/language/test_generation.py",
    "interop/test_reference_cases.py",
    "test_extras.py",
    "lab/studies/test_study_command.py",
    "training/test_kills.py",
    "benchmarks/test_stopping.py",
    "docs/test_notebooks.py",
    "serving/test_serve_harness.py",
    "cli",
    "lab",
    "benchmarks",
    "training",
)
"""What takes longest comes first, so that all processes end together: a module is never split between them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and begin with what takes longest."""
    tests = Path(__file__).parent
    missing = [name for name in (*SLOW, *LONGEST) if not (tests / name).exists()]
    assert not missing, f"conftest.py names {missing}, which are not there"

    @cache
    def place(path: Path) -> tuple[int, bool]:
        """Where a module comes, and whether it is slow: found once for all of its tests."""
        order = next((i for i, name in enumerate(LONGEST) if path.is_relative_to(tests / name)), len(LONGEST))
        return order, any(path.is_relative_to(tests / name) for name in SLOW)

    for item in items:
        if place(item.path)[1]:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: place(item.path)[0])


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not go through all of it again and again, nor look often."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With EBT_NO_SKIPS set, a test that is skipped though it could run fails the suite."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("EBT_NO_SKIPS") or reporter is None:
        return
    reasons = [str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", [])]
    if wrong := [reason for reason in reasons if not reason.startswith(MAY_SKIP)]:
        reporter.write_line(f"skipped though they could run: {wrong}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
