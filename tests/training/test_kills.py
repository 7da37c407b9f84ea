"""A training that is killed again and again ends like one that never was."""

from __future__ import annotations

from pathlib import Path

import kill
import pytest
import torch


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path: Path) -> None:
    done = kill.survived(tmp_path, kills=3, updates=24, seed=0)
    assert done == sorted(done)
    assert 1 <= done[0] <= done[-1] < 24
    whole, killed = (kill.state(tmp_path / name) for name in ("whole", "killed"))
    assert whole["global_step"] == killed["global_step"] == 24
    assert kill.differences(whole, killed) == []


def test_a_difference_is_found() -> None:
    one = {"state_dict": {"w": torch.zeros(2)}, "optimizer_states": [{"step": 1}], "thinking": None}
    assert kill.differences(one, {**one, "state_dict": {"w": torch.tensor([0.0, 1e-30])}}) == ["state_dict.w"]
    assert kill.differences(one, {**one, "optimizer_states": [{"step": 2}]}) == ["optimizer_states.0.step"]
    assert kill.differences(one, {**one, "thinking": {"seed": 1}}) == ["thinking", "thinking.seed"]
