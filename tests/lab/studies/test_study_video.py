"""The study of video through the command, on tiny models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean

import pytest
from here import no_pool

from ebt.cli.main import main
from ebt.lab.studies.video import KNOWS, MOVES, OVER

pytestmark = pytest.mark.filterwarnings("ignore")
OPTIONS = ["study", "video", "--quick", "--seeds", "2", "--jobs", "1", "--minutes", "0.002", "--clips", "4", "--steps", "1,2"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ebt.lab.studies.runs.pool", no_pool)
        assert main([*OPTIONS, "--out", str(folder)]) == 0
    return folder


def test_both_are_measured_where_validation_chose(out: Path) -> None:
    results = json.loads((out / "results.json").read_text())
    ebt, twin = results["measured"]["ebt"], results["measured"]["transformer_pp"]
    for own, other in zip(ebt, twin, strict=True):
        assert list(own["losses"]["digits"]) == ["1", "2", "3", "12"]
        assert list(other["losses"]["digits"]) == ["1"]
        assert own["losses"]["validation"][str(own["chosen"])] == min(own["losses"]["validation"].values())
        assert own["repeat"] == other["repeat"]
        for knows in own["knows"].values():
            assert knows["energy of the second frame"] == pytest.approx(-3 * knows["energy of the later frames"], abs=1e-6)
            assert all(-1 <= knows[what] <= 1 for what in KNOWS)
        assert own["reading"]["true frame"] > 0.7
        assert all(0 <= share <= 1 for share in own["reading"].values())
    above = fmean(
        100 * (own["losses"]["digits"][str(own["chosen"])] / other["losses"]["digits"]["1"] - 1)
        for own, other in zip(ebt, twin, strict=True)
    )
    assert f"loss {above:+.1f} [" in results["verdicts"][0]["text"]
    told = fmean(own["knows"]["digits"][MOVES] for own in ebt)
    assert f"Spearman {told:.2f}" in results["verdicts"][-1]["text"]
    assert len(results["verdicts"]) == 9


def test_the_page_shows_all_steps(out: Path) -> None:
    page = (out / "video-details.md").read_text()
    assert "| EBT, 12 steps |" in page
    assert "EBT: digits read, rollout, %" in page
    assert (out / "video.png").read_bytes().startswith(b"\x89PNG")


def test_runs_of_before_a_number_make_a_page_without_it(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, tmp_path / "older")
    for path in (tmp_path / "older" / "raw").glob("ebt-*.json"):
        result = json.loads(path.read_text())
        for knows in result["values"]["knows"].values():
            del knows[OVER]
        path.write_text(json.dumps(result))
    assert main([*OPTIONS, "--out", str(tmp_path / "older")]) == 0
    page = (tmp_path / "older" / "video-details.md").read_text()
    assert OVER in (out / "video-details.md").read_text()
    assert KNOWS[OVER] not in page
    assert OVER not in page
    assert KNOWS[MOVES] in page


def test_a_second_call_trains_nothing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*OPTIONS, "--out", str(out)]) == 0
    assert "8 runs, 8 of them finished before." in capsys.readouterr().out
