"""The benchmark of generation: its script from end to end, its arithmetic, and that its ways make the same tokens."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import generate
import pytest
import torch
from forked import begin
from generate import QUICK, Case, operations

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_script_measures_every_case(tmp_path: Path) -> None:
    path = tmp_path / "generate.json"
    options = ("--quick", "--rounds", "1", "--threads", "1", "--json", str(path))
    done = begin(str(BENCHMARKS / "generate.py"), *options).ended(200, check=True)
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    rows = [one for one in results if "case" in one]
    assert [Case(**one["case"]) for one in rows] == generate.cases(QUICK)
    for one in rows:
        numbers = [one[name] for name in ("tokens_per_second", "times_twin", "floor")]
        assert all(math.isfinite(number) and number > 0 for number in numbers)
        base = next(r for r in rows if Case(**r["case"]) == Case("cached", one["case"]["prefix"]))
        assert one["times_twin"] == pytest.approx(base["tokens_per_second"] / one["tokens_per_second"])
    ratios = [one for one in results if "ratio" in one]
    assert [one["limit"] for one in ratios] == [50, None, 1.5, 3]
    assert all(math.isfinite(one["ratio"]) and one["ratio"] > 0 for one in ratios)
    assert "missed" in done.stdout or done.stdout.count("met") == 3


def test_operations_by_hand() -> None:
    """100 weights, 1 layer, D = 2, V = 5: n = 100 + 4 K."""
    row = generate.Row(5, 2, 1, 1)
    counts = {
        Case("cached", 10): 2 * 140 + 20,
        Case("cached", 10, 3): 2 * 140 + 3 * (4 * 140 + 40) + 20,
        Case("cached", 10, 1, 4): 2 * 140 + 4 * (4 * 140 + 40 + 2 * 140 + 40) + 20,
        Case("no cache", 2): 2 * (104 + 108) + 20,
        Case("no cache", 2, 1): 2 * (104 + 108) + 4 * 108 + 40 + 20,
        Case("everywhere", 2, 1): 6 * (104 + 108) + 80 + 40,
        Case("plain", 2, 3): 3 * (8 * (104 + 108) + 80) + 40,
    }
    for case, expected in counts.items():
        assert operations(case, row, 100) == expected


def test_all_ways_find_the_same() -> None:
    row = generate.SMALL[0]
    model = generate.models(row, 16)["EBT"].double()
    model.config.start_std = 0.0
    ids = generate.prompt_of(row.words, 12)
    with torch.no_grad():
        logits = model(ids, steps=2).logits
    torch.testing.assert_close(generate.plain_logits(model, ids, 2), logits)
    cached, uncached = (generate.generated(model, ids, 3, steps=2, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(cached, uncached)
    assert cached[0, 12] == logits[0, -1].argmax()
    assert (logits - logits.mean(1, keepdim=True)).abs().max() > 0.1  # thinking moves


def test_a_turn_leaves_the_cache_as_it_was() -> None:
    case, row = Case("cached", 6, 2), generate.SMALL[0]
    model = generate.models(row, 16)["EBT"]
    lengths: list[int] = []
    model.embedding.register_forward_hook(lambda module, inputs, output: lengths.append(inputs[0].shape[1]))
    turn = generate.turn_of(case, model, row.words, 3)
    for _ in range(3):
        turn()
    assert lengths == [6, 1, 1] + [1, 1, 1] * 2


@pytest.mark.parametrize(("ratio", "at_least", "met"), [(2.0, False, True), (4.0, False, False), (4.0, True, True)])
def test_limits(ratio: float, at_least: bool, met: bool) -> None:
    target = generate.Target("", ratio, 3, at_least)
    assert target.met == met
    assert replace(target, limit=None).met
