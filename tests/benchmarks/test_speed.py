"""The benchmarks of training run, and their numbers fit together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boards
import contexts
import memory
import pytest
import second_order
import train

QUICK = ("--quick", "--rounds=1", "--threads=1", "--clock=cpu")


def read(file: Path) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = json.loads(file.read_text())["results"]
    return results


def test_training_is_measured_against_the_twin_and_the_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*QUICK, f"--json={tmp_path / 'found.json'}", "--only=s1; s1, plain"]) == 0
    results = read(tmp_path / "found.json")
    assert [one["name"] for one in results] == ["transformer++", "s1", "s1, plain"]
    twin, fast, plain = results
    assert twin["times_twin"] == twin["floor"] == 1
    assert fast["floor"] == plain["floor"]
    for one in results:
        assert one["times_twin"] == pytest.approx(twin["tokens_per_second"] / one["tokens_per_second"])
        assert one["measured"]["memory"] > 0
    assert 1 < fast["times_twin"] < plain["times_twin"]
    assert fast["measured"]["memory"] < plain["measured"]["memory"]
    assert "floor" in capsys.readouterr().out


def test_memory_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory.main([*QUICK, f"--json={tmp_path / 'found.json'}"]) == 0
    table = capsys.readouterr().out
    *results, everything = read(tmp_path / "found.json")
    assert len(results) == 4
    assert all(peak > 0 for peak in everything["peaks"].values())
    for one in results:
        assert one["ratio"] == pytest.approx(one["megabytes"][0] / one["megabytes"][1])
        assert one["what"] in table
    assert results[0]["ratio"] < 0.5  # the largest vocabulary, over the plain way


@pytest.mark.parametrize("boards", [[], ["--boards"]])
def test_ways_to_take_the_second_order_term_are_compared(
    boards: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert second_order.main([*QUICK, f"--json={tmp_path / 'found.json'}", *boards]) == 0
    results, table = read(tmp_path / "found.json"), capsys.readouterr().out
    assert results[0]["times_first"] == 1
    assert len(results) > 3
    assert all(one["seconds"] > 0 and one["name"] in table for one in results)
    assert all(one["error"] < (5e-4 if "central" in one["name"] else 1e-5) and one["cosine"] > 0.9999 for one in results)


def test_long_contexts_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert contexts.main([*QUICK, f"--json={tmp_path / 'found.json'}"]) == 0
    results, table = read(tmp_path / "found.json"), capsys.readouterr().out
    assert results[0]["times_twin"] == 1
    assert all(one["seconds"] > 0 and one["name"] in table for one in results)


def test_boards_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert boards.main([*QUICK, f"--json={tmp_path / 'found.json'}", "--only=latent; feed-forward"]) == 0
    results, table = read(tmp_path / "found.json"), capsys.readouterr().out
    assert [one["name"] for one in results] == ["loop", "latent", "feed-forward"]
    assert results[0]["times_loop"] == 1
    for one in results:
        assert one["times_loop"] == pytest.approx(results[0]["updates_per_second"] / one["updates_per_second"])
        assert one["name"] in table
    assert results[2]["times_loop"] < 1


@pytest.mark.parametrize("benchmark", [boards, train])
def test_an_unknown_contestant_is_named(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main([*QUICK, "--only=nobody"])
    assert "no contestant 'nobody'" in capsys.readouterr().err
