"""The benchmark of accelerators runs small on a CPU, is right there, and continues where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gpu
import pytest
import torch
from rich.console import Console
from torch._dynamo.exc import Unsupported

SMALL = ("--device=cpu", "--sizes=nano", "--contexts=16", "--tokens=32", "--rounds=1", "--eager", "--peak=1e9")


@pytest.mark.slow
def test_a_benchmark_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu, "WORDS", 128)
    file = tmp_path / "gpu.json"
    assert gpu.main([*SMALL, f"--json={file}", "--minutes=0"]) == 0
    assert "14 measurements are left: run the same command again" in capsys.readouterr().out
    first = json.loads(file.read_text())
    assert not first["speed"]
    assert gpu.main([*SMALL, f"--json={file}"]) == 0
    assert "Training on CPU" in capsys.readouterr().out
    found = json.loads(file.read_text())
    assert found["correctness"] == first["correctness"]
    assert len(found["speed"]) == 14
    assert all(one["tokens_per_second"] > 0 for one in found["speed"])
    for one in found["correctness"]:
        error, cosine = {"32": (5e-4, 0.9999), "bf16": (8e-2, 0.997)}[one["precision"]]
        assert one["error"] < error, one
        assert one["cosine"] > cosine, one
    assert gpu.main([*SMALL, f"--json={file}", "--tokens=64"]) == 2
    assert "another device or setting" in " ".join(capsys.readouterr().out.split())
    assert gpu.main([*SMALL, f"--json={file}", "--peak=2e9"]) == 2
    assert "another device or setting" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_does_not_compile_has_failed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def compile_nothing(function: Any, **_: Any) -> Any:
        def fail(*_: Any, **__: Any) -> None:
            raise Unsupported("no compiler here")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    case = gpu.Case("s1", "central", True, "32", "nano", 16, 2)
    measured = gpu.measure(case, torch.device("cpu"), 1)
    assert measured.keys() == {"failed"}
    gpu.show({"device": "CPU", "correctness": [], "speed": [{"case": asdict(case), **measured}]}, Console(width=200))
    assert "(no compiler here)" in capsys.readouterr().out
