"""The video benchmark: tiny runs of both kinds, resumed and summarised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import video

from ebt.errors import InputError


@pytest.fixture(scope="module", autouse=True)
def _small() -> None:
    video.SETTINGS.update(layers=1, dim=16, heads=2, ffn_dim=16)
    video.DATA.update(batch_size=2, clips=8, size=12, context_length=4)
    video.AHEAD = 2


def bench(folder: Path, *options: str) -> int:
    arguments = ["--quick", "--minutes", "0.02", "--out", str(folder), "--json", str(folder / "all.json")]
    code: int = video.main([*arguments, *options])
    return code


def test_it_trains_compares_and_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench(tmp_path) == 0
    read = json.loads((tmp_path / "all.json").read_text())
    summary, (ebt, twin) = read["summary"], read["runs"]
    chosen = str(ebt["chosen"])
    assert min(ebt["losses"]["validation"].values()) == ebt["losses"]["validation"][chosen]
    assert list(twin["losses"]["digits"]) == ["1"]
    for name in ("validation", "digits", "shifted"):
        loss, other = ebt["losses"][name][chosen], twin["losses"][name]["1"]
        assert summary["EBT over Transformer++"][name] == [pytest.approx(loss / other - 1)]
        assert summary["below repeating"]["ebt"][name] == [pytest.approx(1 - loss / ebt["repeat"][name])]
        assert summary["longer"][name]["8"] == [pytest.approx(ebt["losses"][name]["8"] / ebt["losses"][name]["2"] - 1)]
        assert set(summary["longer, stopped"][name]) == {"4", "8"}
        assert -1 <= summary["spearman"][name][0] <= 1
    assert summary["unsure"]["second frame"][0] == pytest.approx(-3 * summary["unsure"]["later frames"][0], abs=1e-6)
    assert all(part["true frame"][0] > 0.9 for part in summary["reading"].values())
    assert all(0 <= part["rollout"][0] <= 1 for part in summary["reading"].values())
    assert "EBT over Transformer++" in capsys.readouterr().out
    assert (tmp_path / "all.png").stat().st_size > 10_000

    (tmp_path / "ebt-seed0.json").unlink()
    trained = []
    run = video.run
    monkeypatch.setattr(video, "run", lambda kind, seed, *rest: trained.append((kind, seed)) or run(kind, seed, *rest))
    assert bench(tmp_path) == 0
    assert trained == [("ebt", 0)]
    with pytest.raises(InputError, match="was made with other settings"):
        bench(tmp_path, "--minutes", "0.03")
