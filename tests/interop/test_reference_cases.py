"""The checker of recorded cases, on cases that an independent oracle of the published models wrote, and on the real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published import Draws
from record import ENCODER, INFER, RUNS, S2, VIDEO_RUNS, cast, compute, deviations, load, record, save

from ebt.interop.reference.__main__ import main

PARITY = Path(__file__).parents[1] / "data" / "parity"

REAL = [
    ("text_default", "s1"),
    ("text_default", "s2"),
    ("text_baseline", "train"),
    ("vid_default", "s1"),
    ("vid_default", "s2"),
]
REAL += [("text_time_embed", run) for run in ("s1", "s2", "nodetach", "s2rand", "s2replay", "infer")]

LAST_STEPS = {"randomize_mcmc_num_steps": 2, "randomize_mcmc_num_steps_final_landscape": True}
CLAMPED = {"clamp_futures_grad": True, "clamp_futures_grad_max_change": 0.2}
CASES: dict[str, dict[str, Any]] = {
    "text_default": {},
    "text_time_embed": {"overrides": {"ebt_type": "time_embed"}, "single": True},
    "text_adaln": {"overrides": {"ebt_type": "adaln"}, "single": True},
    "text_adaln_zero": {"overrides": {"ebt_type": "adaln_zero"}, "zero": True, "single": True},
    "text_adaln_zero_trained": {"overrides": {"ebt_type": "adaln_zero"}, "runs": {"s1": {}, "infer": RUNS["infer"]}, "seed": 3},
    "text_free": {
        "overrides": {"ebt_type": "time_embed", "normalize_initial_condition": False, "mcmc_step_size": 2.0},
        "runs": {name: RUNS[name] for name in ("s1", "s2rand", "infer")},
    },
    "text_clamped": {"overrides": CLAMPED, "runs": {name: RUNS[name] for name in ("s1", "s2rand", "infer")}},
    "text_gap": {
        "overrides": {"ebt_type": "time_embed", "mcmc_num_steps": 3},
        "runs": {
            "s2rand": {**S2, **LAST_STEPS, "langevin_dynamics_noise": 1.0},
            "s2eval": {**S2, **LAST_STEPS, "langevin_dynamics_noise": 1.0, "randomize_mcmc_step_size_scale": 2.0},
            "infer": {
                **INFER,
                "infer_energy_sampling_technique": "max_gap",
                "infer_steps_final_landscape": True,
                "infer_ebt_override_alpha": 0.5,
            },
        },
    },
    "text_trained_noise": {
        "overrides": {**S2, "ebt_type": "time_embed", "langevin_dynamics_noise": 0.3},
        "runs": {
            "s2replay": {"mcmc_replay_buffer": True, "mcmc_replay_buffer_size": 1},
            "infer": {
                **INFER,
                "infer_energy_sampling_technique": "max",
                "infer_langevin_dynamics_noise": 0,
                "infer_ebt_override_alpha": 3.0,
                "infer_ebt_num_steps": 1,
                "randomize_mcmc_num_steps_min": 2,
            },
        },
    },
    "text_one_candidate": {"runs": {"infer": {**INFER, "infer_generated_samples": 1, "infer_ebt_num_steps": 4}}},
    "text_baseline": {"overrides": {"model_name": "baseline_transformer"}, "runs": {"train": {}}, "single": True},
    "vid_time_embed": {"overrides": {"ebt_type": "time_embed"}, "runs": VIDEO_RUNS, "frames": 8, "single": True},
    "vid_time_embed_proj": {
        "overrides": {"ebt_type": "time_embed"},
        "runs": VIDEO_RUNS,
        "frames": ENCODER,
        "single": True,
    },
    "vid_adaln": {"overrides": {"ebt_type": "adaln"}, "runs": VIDEO_RUNS, "frames": ENCODER, "single": True},
    "vid_adaln_zero": {"overrides": {"ebt_type": "adaln_zero"}, "runs": VIDEO_RUNS, "frames": 8, "zero": True},
    "vid_baseline": {"overrides": {"model_name": "baseline_transformer"}, "runs": {"train": {}}, "frames": 8, "single": True},
}


def run_checker(folder: Path, *more: str) -> tuple[int, list[dict[str, Any]]]:
    """The checker's exit code and rows."""
    code = main(["--cases", str(folder), "--json", str(folder / "found"), *more])
    return code, json.loads((folder / "found").read_text())


@pytest.mark.parametrize(("case", "run"), REAL)
def test_the_oracle_reproduces_the_published_models(case: str, run: str) -> None:
    info = json.loads((PARITY / f"{case}.json").read_text())
    hparams = {**info["hparams"], **info["runs"][run].get("overrides", {})}
    weights, inputs = (cast(load(PARITY, case, kind), torch.float64) for kind in ("weights", "inputs"))
    recorded, path = load(PARITY, case, f"{run}_f64"), PARITY / f"{case}.{run}_draws.safetensors"
    draws = Draws(load(PARITY, case, f"{run}_draws") if path.exists() else {})
    found = {name: value.detach() for name, value in compute(weights, hparams, run, inputs, draws).items()}
    assert not draws.waiting
    assert max(deviations(found, recorded).values()) < 1e-11  # processors round sums in orders of their own: 1.04e-12 on one


def test_every_recorded_tensor_of_the_published_models_is_reproduced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cases", str(PARITY)]) == 0
    assert "comparisons hold" in capsys.readouterr().out


@pytest.mark.parametrize("case", CASES)
def test_every_form_and_run_that_the_oracle_records_is_reproduced(case: str, tmp_path: Path) -> None:
    record(tmp_path, case, **CASES[case])
    code, rows = run_checker(tmp_path)
    missed = [(row["run"], row["group"], row["deviation"], row["problem"]) for row in rows if not row["ok"]]
    assert (code, missed) == (0, [])
    assert {row["run"].rpartition("_")[0] for row in rows} == set(CASES[case].get("runs", RUNS))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pristine")
    runs = {name: RUNS[name] for name in ("s1", "s2rand", "s2replay", "infer")}
    record(folder, "text_time_embed", {"ebt_type": "time_embed"}, runs)
    return folder


def a_weight_is_off(folder: Path) -> None:
    weights = load(folder, "text_time_embed", "weights")
    weights["transformer.layers.1.feed_forward.w2.weight"] *= 1 + 1e-6
    save(folder, "text_time_embed", "weights", weights)


def a_setting_is_wrong(folder: Path) -> None:
    path = folder / "text_time_embed.json"
    info = json.loads(path.read_text())
    info["hparams"]["ebt_type"] = "default"
    path.write_text(json.dumps(info))


def a_recorded_number_is_off(folder: Path) -> None:
    recorded = load(folder, "text_time_embed", "s1_f64")
    recorded["grad.alpha"] *= 1 + 1e-8
    save(folder, "text_time_embed", "s1_f64", recorded)


def a_tensor_is_unknown(folder: Path) -> None:
    recorded = load(folder, "text_time_embed", "s1_f64")
    save(folder, "text_time_embed", "s1_f64", recorded | {"momentum.0": torch.zeros(2)})


def a_run_is_unknown(folder: Path) -> None:
    (folder / "text_time_embed.s1_f64.safetensors").rename(folder / "text_time_embed.s9_f64.safetensors")


def another_record_was_replayed(folder: Path) -> None:
    draws = load(folder, "text_time_embed", "s2replay_draws")
    (name,) = (name for name in draws if name.endswith("sample"))
    save(folder, "text_time_embed", "s2replay_draws", draws | {name: 1 - draws[name]})


def draws_are_missing(run: str) -> Callable[[Path], None]:
    return lambda folder: (folder / f"text_time_embed.{run}_draws.safetensors").unlink()


def a_file_is_cut(folder: Path) -> None:
    path = folder / "text_time_embed.s1_f64.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def the_settings_are_missing(folder: Path) -> None:
    (folder / "text_time_embed.json").unlink()


ALL = ("s1", "s2rand", "s2replay", "infer")
DAMAGES = [
    (a_weight_is_off, ALL, ""),
    (a_setting_is_wrong, ALL, "transformer.time_embeddings.weight is unknown"),
    (a_recorded_number_is_off, ("s1",), ""),
    (a_tensor_is_unknown, ("s1",), "momentum.0 is not recomputed"),
    (another_record_was_replayed, ("s2replay",), ""),
    (a_run_is_unknown, ("s9",), "the run s9 is not in text_time_embed.json"),
    (draws_are_missing("s2rand"), ("s2rand",), "s2rand_draws.safetensors is missing"),
    (draws_are_missing("infer"), ("infer",), "infer_draws.safetensors is missing"),
    (a_file_is_cut, ("s1",), "s1_f64.safetensors cannot be read"),
    (the_settings_are_missing, ALL, "text_time_embed.json cannot be read"),
]


@pytest.mark.parametrize(("damage", "runs", "problem"), DAMAGES)
def test_damage_is_noticed_and_named(
    damage: Callable[[Path], None], runs: tuple[str, ...], problem: str, pristine: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(pristine, tmp_path / "damaged")
    damage(folder)
    code, rows = run_checker(folder)
    assert code == 1
    missed = [row for row in rows if not row["ok"]]
    assert {row["run"] for row in missed} == {f"{run}_f64" for run in runs}
    assert all(problem in row["problem"] for row in missed)


def test_one_case_can_be_chosen_and_bad_folders_are_refused(
    pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_checker(pristine, "--case", "text_time_embed")[0] == 0
    assert main(["--cases", str(pristine), "--case", "text_none"]) == 2
    assert main(["--cases", str(tmp_path)]) == 2
    assert main(["--cases", str(tmp_path / "nowhere")]) == 2
    assert "there is no case 'text_none'" in capsys.readouterr().err
