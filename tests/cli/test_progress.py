"""The lines of a training without a terminal."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ebt.cli.progress import RECENT, Report


def test_a_pause_is_soon_forgotten(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One update a second, but for an hour in which the machine stood still."""
    clock = 0.0
    monkeypatch.setattr("ebt.cli.progress.time", SimpleNamespace(monotonic=lambda: clock))
    trainer: Any = SimpleNamespace(
        global_step=0, estimated_stepping_batches=1000, is_global_zero=True, sanity_checking=False, callback_metrics={}
    )
    trainer.state = SimpleNamespace(fn="fit")
    report = Report()
    report.on_train_start(trainer, None)
    for step in range(1, 2 * RECENT):
        clock += 3600 if step == 10 else 1
        trainer.global_step = step
        report.on_train_batch_end(trainer)
    assert report.seconds == clock
    capsys.readouterr()
    report.on_validation_end(trainer, None)
    assert "1 updates/s  left 0:10:01" in capsys.readouterr().out
