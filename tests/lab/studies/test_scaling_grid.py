"""Grids of scaling studies: what they hold, and what contradicts itself is told before work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebt.errors import InputError
from ebt.lab.scaling import AXES, TASKS
from ebt.lab.scaling.grid import VARIED, Grid, Point, check_filled, make_grid, read_grid
from ebt.lab.scaling.subject import subject
from ebt.lab.studies.machines import array_share, cores, devices, share_of

DATA = {"tokenizer": "bytes", "context_length": 128}


def grid(axis: str, /, **given: Any) -> Grid:
    return make_grid(axis, given, subject("language").grid(axis, quick=False), "--grid g.yaml")


def filled(one: Grid, examples: int = 20_000) -> Grid:
    return check_filled(one, examples, held_out=1000, per_example=one.data["context_length"], items="tokens")


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("task", TASKS)
def test_default_grids_vary_their_axis_alone(task: str, axis: str, quick: bool) -> None:
    one = filled(make_grid(axis, {}, subject(task).grid(axis, quick), "default"))
    assert len(one.points) == (3 if quick else 5)
    for name in Point.__dataclass_fields__:
        many = len({getattr(point, name) for point in one.points})
        assert (many > 1) == (name in VARIED[axis] or (axis, name) == ("data", "updates"))
    span = max(value[0] for value in one.values) / min(value[0] for value in one.values)
    assert quick or axis in ("parameters", "flops") or span >= 10


def test_axes_share_points() -> None:
    """So that several axes cost less than each on its own."""
    width, depth = (set(filled(grid(axis)).points) for axis in ("width", "depth"))
    assert len(width & depth) == 1


def test_what_is_given_differs_from_the_default_and_the_rest_does_not() -> None:
    one = grid("width", values=[64, 16, 32], updates=10, data={"context_length": 32})
    assert [point.dim for point in one.points] == [16, 32, 64]
    assert {point.updates for point in one.points} == {10}
    assert one.points[0].layers == subject("language").grid("width", quick=False).base.layers
    assert one.data == {**DATA, "context_length": 32}
    pairs = grid("parameters", values=[[1, 16], [2, 16], [2, 32]])
    assert [(point.layers, point.dim) for point in pairs.points] == [(1, 16), (2, 16), (2, 32)]
    assert pairs.label(2) == "2 x 32"


@pytest.mark.parametrize(
    ("axis", "given", "reason"),
    [
        ("width", {"valus": [1]}, "there is no field 'valus': did you mean values"),
        ("width", {"zzz": 1}, "there is no field 'zzz': the fields are axis, values"),
        ("width", {"axis": "depth"}, "axis is 'depth', but --axis is width"),
        ("width", {"dim": 64}, "dim is given, but varies along the axis width: leave it out"),
        ("parameters", {"layers": 3}, "layers is given, but varies"),
        ("width", {"values": []}, "values is empty: the axis width needs a list of at least 3 numbers"),
        ("width", {"values": None}, "values is empty"),
        ("width", {"values": [16, 32]}, "at least 3 numbers"),
        ("width", {"values": [16, 32, 32]}, "values contains 32 twice"),
        ("parameters", {"values": [[1, 16], [2, 16], [1, 16]]}, "values contains 1, 16 twice"),
        ("parameters", {"values": [1, 2, 3]}, "needs pairs \\[layers, dim\\]"),
        ("width", {"values": [16, 24, 32]}, "dim 24 is not a multiple of head_dim 16"),
        ("width", {"values": [9, 18, 27], "head_dim": 9}, "head_dim is 9: give an even number"),
        ("width", {"values": [16, 32, "64"]}, "dim is '64': give an integer"),
        ("depth", {"values": [0, 1, 2]}, "layers is 0: give an integer of at least 1"),
        ("depth", {"updates": True}, "updates is True"),
        ("depth", {"updates": 3}, "evaluations is 4, more than updates 3"),
        ("data", {"updates": 8}, "updates is given, but follows from the data on the axis data: give passes"),
        ("width", {"passes": 2}, "passes is given, but applies only to the axis data: give updates"),
        ("flops", {"decay": True}, "decay is true, but the axis flops uses losses along training"),
        ("data", {"head_dim": 48}, "dim 64 is not a multiple of head_dim 48"),
        ("data", {"held_out": 1}, "held_out is 1: give at least 2"),
        ("depth", {"lr": 0}, "lr is 0: give a positive number"),
        ("depth", {"lr": "4e-3"}, "lr is '4e-3': give a positive number, for example 0.004 or 4.0e-3"),
        ("depth", {"decay": "no"}, "decay is 'no': write true or false"),
        ("depth", {"held_out": 1}, "held_out is 1: give at least 2"),
        ("depth", {"data": {"words": 3}}, "there is no data.words: the settings are tokenizer, context_length"),
        ("depth", {"data": {"context_length": 0}}, "data.context_length is 0"),
        ("depth", {"data": {"tokenizer": 3}}, "data.tokenizer is 3"),
        ("depth", {"data": 3}, "data is 3"),
    ],
)
def test_contradictions_are_told(axis: str, given: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=f"--grid g.yaml: .*{reason}"):
        grid(axis, **given)


@pytest.mark.parametrize(
    ("one", "examples", "reason"),
    [
        (grid("batch", values=[16, 32, 64], size=128 * 32), 100, "batch_size 64 cannot be filled: 4,096 tokens are 32 rows"),
        (grid("data", values=[128, 4096, 8192]), 100, "batch_size 16 cannot be filled: 128 tokens are 1 rows"),
        (grid("data", values=[4096, 4100, 8192]), 100, "the same number of rows"),
        (grid("data", values=[4096, 8192, 99999]), 100, "size 99,999 is more than the 12,800 tokens"),
        (grid("depth", held_out=1001), 100, "held_out is 1001, but there are 1000 rows"),
        (grid("data"), 1, "too few for an axis of data"),
        (grid("data", values=[2048, 4096, 65536]), 512, "evaluations is 4, more than updates 1"),
    ],
)
def test_data_that_are_too_few_are_told(one: Grid, examples: int, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        filled(one, examples)


def test_moments_are_late_where_the_rate_falls_and_ever_further_apart_where_not() -> None:
    assert Point(updates=800, evaluations=4).moments == [600, 667, 733, 800]
    point = Point(updates=800, evaluations=8, decay=False)
    assert (point.moments[0], point.moments[-1], len(point.moments)) == (100, 800, 8)
    assert point.moments[0] >= 2 * point.warmup
    assert sorted(gaps := [b - a for a, b in zip(point.moments, point.moments[1:], strict=False)]) == gaps
    assert Point(updates=800, evaluations=1).moments == Point(updates=800, evaluations=1, decay=False).moments == [800]


def test_updates_follow_from_the_data() -> None:
    one = filled(grid("data", values=[128 * 160, 128 * 320, 128 * 1600], passes=2))
    assert [point.updates for point in one.points] == [20, 40, 200]
    assert [point.warmup for point in one.points] == [1, 2, 12]
    assert {point.updates for point in filled(grid("width")).points} == {800}


@pytest.mark.parametrize(("text", "reason"), [("a: [", "not valid YAML"), ("- 1", "has no fields"), ("", "has no fields")])
def test_files_that_hold_no_grid(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_grid(str(tmp_path / "g.yaml"))
    with pytest.raises(InputError, match="cannot be read"):
        read_grid(str(tmp_path / "none.yaml"))


def array(index: int, count: int, **more: int) -> dict[str, str]:
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in {"ID": index, "COUNT": count, **more}.items()}


def test_jobs_of_an_array_share_all_runs_among_them() -> None:
    assert array_share({}) is None
    shares = [array_share(array(index, 4, MIN=3, STEP=2)) for index in (3, 5, 7, 9)]
    assert shares == [(0, 4), (1, 4), (2, 4), (3, 4)]
    parts = [share_of(range(10), share) for share in shares if share is not None]
    assert sorted(run for part in parts for run in part) == list(range(10))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("environ", [{"SLURM_ARRAY_TASK_ID": "1"}, array(4, 4), array(0, 4, MIN=1), array(4, 4, MIN=3, STEP=2)])
def test_an_array_that_contradicts_itself_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(InputError, match="SLURM_ARRAY_TASK_ID is"):
        array_share(environ)


def test_an_array_with_gaps_is_refused() -> None:
    """As where only the jobs that failed are submitted again."""
    with pytest.raises(InputError, match=r"2 jobs between 3 and 7, with gaps.*submit the whole one again"):
        array_share(array(3, 2, MIN=3, MAX=7, STEP=1))
    assert array_share(array(3, 5, MIN=3, MAX=7, STEP=1)) == (0, 5)


def test_devices_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices("cpu") == []
    assert cores() >= 1
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert devices("auto", {}) == devices("cuda", {}) == ["0", "1"]
    assert devices("auto", {"CUDA_VISIBLE_DEVICES": "3, GPU-abc"}) == ["3", "GPU-abc"]
    assert devices("cpu", {}) == []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert devices("auto", {}) == []
    with pytest.raises(InputError, match="--device cuda, and no CUDA device is visible"):
        devices("cuda", {})
