"""The stability benchmark: two tiny runs of it, and its verdicts on made-up losses."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import stability

UPDATES = 2


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory: pytest.TempPathFactory) -> None:
    text = tmp_path_factory.mktemp("text") / "text.jsonl"
    text.write_text('{"text": "Energies fall, and the model thinks."}\n' * 20)
    stability.DATA.update(source=str(text), context_length=8, batch_size=2)
    stability.NETWORK.update(layers=1, dim=16)


def bench(folder: Path, *options: str) -> int:
    arguments = ["--quick", "--seeds", "1", "--updates", str(UPDATES), "--step-sizes", "1,50", "--out", str(folder)]
    code: int = stability.main([*arguments, "--json", str(folder / "all.json"), *options])
    return code


def result(step_size: float = 1.0, losses: tuple[float, ...] = (5.0, 4.0), seed: int = 0, **other: object) -> object:
    return stability.Result(stability.Run("own", 0.002, step_size, seed, 2), list(losses), 5.0, 1.0, **other)


def missed(*results: object) -> list[str]:
    return [verdict.name for verdict in stability.judge(results) if not verdict.met]


def test_it_trains_judges_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = bench(tmp_path)
    summary = json.loads((tmp_path / "all.json").read_text())
    met = {verdict["name"]: verdict["met"] for verdict in summary["verdicts"]}
    assert met == {"flat start": True, "stable": True, "learns": False, "step size": True}  # two updates teach nothing
    assert code == 1
    assert summary["guessing"] == pytest.approx(math.log(257))
    assert [run["first"] for run in summary["runs"]] == pytest.approx([1, 1])
    assert [run["step_size"] for run in summary["runs"]] == [1, 50]
    assert (tmp_path / "stability.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "0 of them finished before" in printed
    assert printed.count("MISSED") == 1

    files = sorted(tmp_path.glob("own-*.json"))
    kept, gone = files[0].read_bytes(), json.loads(files[1].read_text())
    files[1].unlink()
    assert bench(tmp_path) == 1
    assert "1 of them finished before" in capsys.readouterr().out
    assert files[0].read_bytes() == kept
    again = json.loads(files[1].read_text())
    assert (again["losses"], again["settings"]) == (gone["losses"], gone["settings"])


def test_a_run_with_other_settings_is_not_taken_for_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = result()
    stability.save(saved, tmp_path)
    assert stability.load(saved.run, tmp_path) == saved
    monkeypatch.setitem(stability.DATA, "batch_size", 3)
    assert stability.load(saved.run, tmp_path) is None


def test_a_run_that_explodes_is_kept_and_counts_as_missed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stability.main(
        ["--recipes", "s2", "--lr", "1e30", "--step-sizes", "1", "--seeds", "1", "--updates", "4", "--out", str(tmp_path)]
    )
    (file,) = tmp_path.glob("s2-*.json")
    content = json.loads(file.read_text())
    assert "not finite" in content["stopped"]
    assert len(content["losses"]) < 4
    assert "MISSED stable" in capsys.readouterr().out


def test_verdicts() -> None:
    assert missed(result(), result(50.0)) == []
    assert missed(result(losses=(5.06, 4.0)), result(50.0, (5.06, 4.0))) == ["flat start"]
    assert missed(result(losses=(5.0, 5.6, *[4.0] * 10))) == ["stable"]
    assert missed(result(losses=(5.0, 5.0))) == ["learns"]
    assert missed(result(), result(50.0, (5.0, 4.03))) == ["step size"]
    assert missed(result(), result(50.0, seed=1), result(seed=1, losses=(5.0, 4.03))) == ["step size"]
    assert missed(result(), result(50.0, stopped="why")) == ["stable", "learns", "step size"]
    assert missed(result(), result(losses=(5.0, 4.03), seed=1)) == []  # seeds may differ


@pytest.mark.parametrize(
    ("options", "reason"), [(["--recipes", "s3"], "own, s1, s2"), (["--lr", "0"], "above 0"), (["--seeds", "0"], "at least 1")]
)
def test_wrong_options_are_named(options: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        stability.main(options)
    assert error.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_broken_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = stability.Run("own", stability.DEMO.optimisation.lr, 1.0, 0, UPDATES)
    (tmp_path / f"{run.name}.json").write_text("{")
    assert bench(tmp_path) == 2
    assert f"{run.name}.json" in capsys.readouterr().err
