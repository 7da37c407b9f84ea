"""``ebt scaling`` through the command, on a small text: pages, pictures, resuming, arrays; and its seam for other tasks."""

from __future__ import annotations

import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from here import Here, Messages, no_pool
from rich.console import Console
from small_videos import clip_folder, dinov2
from test_study_runs import Json, Report
from torch.utils.flop_counter import FlopCounterMode

from ebt.cli.main import main
from ebt.lab.scaling.found import best
from ebt.lab.scaling.subject import subject
from ebt.lab.scaling.training import halves, losses, train_point
from ebt.lab.studies.models import OPTIMISATION, RECIPES
from ebt.lab.studies.runs import Run, collect
from ebt.problems.language.corpora import Document
from ebt.problems.language.tokenizers import train_bpe
from ebt.training.loop import train
from ebt.training.plan import floor

GRID = """
values: [2, 4, 6]
head_dim: 2
layers: 1
updates: 6
evaluations: 2
batch_size: 4
held_out: 8
data: {context_length: 16}
"""
RUNS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scaling")
    words = ["energy", "falls", "while", "the", "model", "thinks", "about", "what", "comes", "next"]
    text = ["".join(f"{words[(i * j) % len(words)]} {i + j}, " for j in range(20)) + "\n\n" for i in range(80)]
    (folder / "text.txt").write_text("".join(text))
    (folder / "grid.yaml").write_text(GRID)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebt.lab.studies.runs.pool", no_pool)


def command(folder: Path, out: str, axis: str = "width", *more: str) -> list[str]:
    train = ["--train", str(folder / "text.txt"), "--device", "cpu"]
    return ["scaling", "--axis", axis, *train, "--seeds", "1", "--jobs", "1", "--out", str(folder / out), *more]


def own_grid(folder: Path) -> list[str]:
    return ["--grid", str(folder / "grid.yaml")]


@pytest.fixture(scope="module")
def made(folder: Path) -> str:
    """What the command printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as out:
        patch.setattr("ebt.lab.studies.runs.pool", no_pool)
        assert main(command(folder, "width", "width", *own_grid(folder))) == 0
    return out.getvalue()


def raw(out: Path) -> set[str]:
    return {path.name for path in (out / "raw").glob("*.json")}


def test_a_page_with_pictures_and_numbers(folder: Path, made: str) -> None:
    page = (folder / "width" / "scaling-details.md").read_text()
    assert f"{RUNS} runs, 0 of them finished before." in made
    assert set(re.findall(r"\]\((.*\.png)\)", page)) == {"scaling.png"}
    assert (folder / "width" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert all(text in page for text in ("+0.02", "the paper's", "not measured here"))
    assert "nan" not in page
    assert "**missed**: width: these runs suffice to compare EBT own recipe. the points span a factor of 3" in page
    found = json.loads((folder / "width" / "results.json").read_text())
    axis = found["axes"]["width"]
    assert axis["series"]["ebt"]["x"] == [2, 4, 6]
    assert set(axis["series"]) == {"ebt", "transformer-pp"}
    assert all(loss > 0 for one in axis["series"].values() for row in one["losses"] for loss in row)
    assert axis["laws"]["with a floor"] == {}  # three points are too few
    assert {"low", "high", "mean"} <= set(axis["compared"]["power law"]["ebt"]["faster"])


@pytest.mark.usefixtures("here")
def test_a_second_call_makes_nothing_and_a_lost_run_is_made_again_alike(
    folder: Path, made: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / "width" / "results.json").read_text()
    lost = sorted((folder / "width" / "raw").glob("ebt*"))[0]
    values = json.loads(lost.read_text())["values"]
    lost.unlink()
    for finished in (RUNS - 1, RUNS):
        assert main(command(folder, "width", "width", *own_grid(folder))) == 0
        assert f"{RUNS} runs, {finished} of them finished before." in capsys.readouterr().out
    again = json.loads(lost.read_text())["values"]
    assert again["curve"] == values["curve"]
    numbers = json.loads((folder / "width" / "results.json").read_text())
    assert numbers["axes"] == json.loads(before)["axes"]


@pytest.mark.usefixtures("here")
def test_jobs_of_an_array_make_all_runs_once_and_a_last_call_gathers(
    folder: Path, made: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    seen: list[int] = []
    for index in range(4):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(index))
        assert main(command(folder, "array", "width", *own_grid(folder))) == 0
        printed = capsys.readouterr().out
        assert f"Job {index + 1} of 4 of this array is done" in printed
        assert "0 of them finished before" in printed
        seen.append(len(raw(folder / "array")))
    assert seen == [2, 4, 5, 6]
    assert not (folder / "array" / "scaling.md").exists()
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    assert main(command(folder, "array", "width", *own_grid(folder))) == 0
    assert f"{RUNS} runs, {RUNS} of them finished before." in capsys.readouterr().out
    assert raw(folder / "array") == raw(folder / "width")
    assert (folder / "array" / "scaling.md").is_file()


@pytest.mark.usefixtures("here")
def test_several_axes_share_a_page_and_runs(folder: Path) -> None:
    with redirect_stdout(io.StringIO()) as out:
        assert main(command(folder, "all", "flops,data", "--quick", "--recipes", "own,s2")) == 0
    assert "18 runs, 0 of them finished before." in out.getvalue()
    found = json.loads((folder / "all" / "results.json").read_text())
    assert set(found["axes"]) == {"flops", "data"}
    assert all(set(one["series"]) == {"transformer-pp", "ebt", "ebt-s2"} for one in found["axes"].values())
    page = (folder / "all" / "scaling-details.md").read_text()
    assert set(re.findall(r"\]\((.*\.png)\)", page)) == {"scaling.png", "training.png"}
    for axis, paper in (("flops", "+2.92"), ("data", "+35.98")):
        assert re.search(rf"\| {axis}, EBT S2 \|.*\| {re.escape(paper)} \|", page)
    flops = found["axes"]["flops"]["series"]
    assert flops["ebt"]["x"][0] > 2 * flops["transformer-pp"]["x"][0]  # thinking costs
    assert found["axes"]["data"]["series"]["ebt"]["x"] == [3072, 6144, 12288]
    assert "each is seen once, so 6, 12, 24 updates" in page
    assert "No recipe starts warm here" in page
    with redirect_stdout(io.StringIO()) as out:
        assert main(command(folder, "all", "data", "--quick")) == 0
    assert "6 runs, 6 of them finished before." in out.getvalue()


def settings(**point: Any) -> dict[str, Any]:
    shape = {
        "layers": 1,
        "dim": 8,
        "head_dim": 4,
        "batch_size": 4,
        "size": 64 * 16,
        "updates": 4,
        "moments": [2, 3, 4],
        "held_out": 8,
    }

    return {
        "task": "language",
        "recipe": asdict(RECIPES["ebt"]),
        "point": {**shape, **point},
        "optimisation": asdict(OPTIMISATION),
        "data": {"tokenizer": "bytes", "context_length": 16},
        "seed": 0,
    }


def places(folder: Path) -> dict[str, Any]:
    return {"train": str(folder / "text.txt"), "validation": None, "device": "cpu", "data": settings()["data"]}


def test_a_run_tells_losses_at_every_number_of_steps(folder: Path) -> None:
    values = train_point(settings(), places(folder), lambda *_: None)
    assert [moment["update"] for moment in values["curve"]] == [3, 4]  # until the second it starts warm
    assert all(len(moment[half]) == 3 for moment in values["curve"] for half in ("choosing", "measured"))
    plain = train_point({**settings(), "recipe": None}, places(folder), lambda *_: None)
    assert [moment["update"] for moment in plain["curve"]] == [2, 3, 4]
    assert all(len(moment["measured"]) == 1 for moment in plain["curve"])
    about = subject("language")
    task = about.task({"layers": 1, "dim": 8, "heads": 2}, RECIPES["ebt"], OPTIMISATION, 0)
    data = about.open(settings()["data"], places(folder), 0, 4)
    train(task, data, 1, lambda *_: None)
    sizes = about.sizes(task, settings()["data"])
    assert (sizes.context, sizes.vocabulary, sizes.layers, sizes.dim) == (16, 257, 1, 8)
    assert values["operations"] == floor(sizes, RECIPES["ebt"], 2.0).total
    assert values["network"] == plain["network"] + 8  # the energy head
    assert 1.5 < values["operations"] / plain["operations"] < 6  # half of the updates start warm


def test_losses_are_those_of_the_tasks_own_evaluation(folder: Path) -> None:
    about = subject("language")
    task = about.task({"layers": 1, "dim": 8, "heads": 2}, None, OPTIMISATION, 0)
    data = about.open(settings()["data"], places(folder), 0, 4)
    train(task, data, 2, lambda *_: None)
    choosing, measured = halves(data, 9)
    assert [len(half[0]["input_ids"]) for half in (choosing, measured)] == [4, 5]
    rows = [{tuple(row.tolist()) for row in half[0]["input_ids"]} for half in (choosing, measured)]
    assert not rows[0] & rows[1]
    logits = task.model(measured[0]["input_ids"]).logits
    truth = torch.nn.functional.cross_entropy(logits.mT, measured[0]["targets"])
    assert losses(task, measured) == pytest.approx([float(truth)])


def test_less_data_are_a_part_of_more_and_differ_between_seeds(folder: Path) -> None:
    def rows(seed: int, examples: int | None) -> set[tuple[int, ...]]:
        data = subject("language").open(settings()["data"], places(folder), seed, 4, examples)
        return {tuple(one["input_ids"].tolist()) for one in data.train_dataloader().dataset}

    assert len(rows(0, 32)) > 16
    assert rows(0, 16) < rows(0, 32) < rows(0, None) == rows(1, None)
    assert rows(0, 16) != rows(1, 16)


def test_a_run_that_diverges_is_a_result_and_left_out(folder: Path) -> None:
    wild = settings() | {"optimisation": {**settings()["optimisation"], "lr": 1e30, "warmup_steps": 0}}
    values = train_point(wild, places(folder), lambda *_: None)
    assert "not finite" in values["stopped"]
    assert math.isnan(best(values).loss)


def test_the_best_is_chosen_on_one_half_and_told_of_the_other() -> None:
    curve = [
        {"update": 1, "choosing": [3.0, 2.0], "measured": [3.1, 2.1]},
        {"update": 2, "choosing": [2.5, 1.9], "measured": [0.1, 2.2]},
        {"update": 3, "choosing": [2.4, None], "measured": [2.4, 0.2]},
    ]
    found = best({"curve": curve, "stopped": None})
    assert (found.loss, found.steps, found.update) == (2.2, 2, 2)


def which_device(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    time.sleep(0.3)
    return {"device": os.environ["CUDA_VISIBLE_DEVICES"], "process": os.getpid()}


def test_each_process_sees_one_device(tmp_path: Path) -> None:
    runs = [Run(f"run {i}", which_device, {"i": i}, tmp_path / "raw") for i in range(4)]
    found = collect([runs], 2, Console(quiet=True), ["3", "GPU-abc"])
    seen = {(result.values["process"], result.values["device"]) for result in found.values()}
    assert {device for _, device in seen} == {"3", "GPU-abc"}
    assert len(seen) == 2


class Interrupted(Here):
    """Ctrl-C comes after three runs."""

    def __init__(self) -> None:
        self.runs = 0

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self.runs += 1
        if self.runs > 3:
            raise KeyboardInterrupt
        return super().submit(function, *arguments)


@contextmanager
def interrupted(*_: Any) -> Iterator[tuple[Here, Messages]]:
    yield Interrupted(), Messages()


def test_an_interrupted_study_goes_on_without_repeating(
    folder: Path, made: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ebt.lab.studies.runs.pool", interrupted)
    assert main(command(folder, "cut", "width", *own_grid(folder))) == 130
    assert "run the same command to continue" in capsys.readouterr().out
    kept = {path: (path.read_text(), path.stat().st_mtime_ns) for path in (folder / "cut" / "raw").glob("*.json")}
    assert len(kept) == 3
    assert not (folder / "cut" / "scaling.md").exists()
    monkeypatch.setattr("ebt.lab.studies.runs.pool", no_pool)
    assert main(command(folder, "cut", "width", *own_grid(folder))) == 0
    assert f"{RUNS} runs, 3 of them finished before." in capsys.readouterr().out
    assert {path: (path.read_text(), path.stat().st_mtime_ns) for path in kept} == kept
    numbers = [json.loads((folder / name / "results.json").read_text())["axes"] for name in ("cut", "width")]
    assert numbers[0] == numbers[1]


@pytest.mark.usefixtures("here")
def test_frames_are_another_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--task", "video", "--axis", "width", "--quick", "--recipes", "s2", "--seeds", "1", "--jobs", "1"]
    assert main(["scaling", *options, "--out", str(tmp_path)]) == 0
    assert "6 runs, 0 of them finished before." in capsys.readouterr().out
    found = json.loads((tmp_path / "results.json").read_text())["axes"]
    assert found["width"]["series"]["transformer-pp"]["x"] == [16, 32, 64]
    losses_of = [row for axis in found.values() for one in axis["series"].values() for row in one["losses"]]
    assert all(0 < loss < 10 for row in losses_of for loss in row)
    page = (tmp_path / "scaling-details.md").read_text()
    assert "smooth L1 loss" in page
    assert re.search(r"\| width, EBT S2 \|.*\| \+33.66 \|", page)


def test_encoders_and_tokenisers_are_known_by_their_content(tmp_path: Path) -> None:
    first, second = (dinov2(tmp_path / name) for name in ("one", "other"))
    video = subject("video")
    known = [video.contents({"encoder": name, "size": 8, "channels": 3}) for name in (first, second)]
    assert known[0] == known[1] != {}
    assert video.contents({"encoder": "pixels", "size": 8, "channels": 3}) == {}
    language = subject("language")
    for name, size in (("a", 258), ("b", 258), ("c", 259)):
        train_bpe([Document("abababab cdcdcdcd")], size).save_pretrained(tmp_path / name)
    words = [language.contents({"tokenizer": str(tmp_path / name)}) for name in ("a", "b", "c")]
    assert words[0] == words[1] != words[2]
    assert language.contents({"tokenizer": "bytes"}) == {}


def test_videos_are_known_by_their_content(tmp_path: Path) -> None:
    folders = [clip_folder(tmp_path / name / "clips", count=2) for name in ("one", "other")]
    about = subject("video")
    first, second = (about.identity(folder) for folder in folders)
    assert first == second
    clip_folder(tmp_path / "more" / "clips", count=3)
    assert about.identity(str(tmp_path / "more" / "clips"))["sha256"] != first["sha256"]
    assert about.identity("digits") == {"source": "digits"}


def test_operations_of_frames_are_those_that_are_carried_out() -> None:
    """Of a forward pass of Transformer++, two for each weight; attention is counted apart."""
    about = subject("video")
    data = about.open({**about.data, "clips": 8, "evaluation_clips": 8}, {"train": "digits", "validation": None}, 0, 4)
    task = about.task({"layers": 1, "dim": 32, "heads": 2}, None, OPTIMISATION, 0)
    train(task, data, 1, lambda *_: None)
    frames = next(iter(data.val_dataloader()))["frames"][:, :-1]
    with FlopCounterMode(display=False) as counter:
        task.model(frames)
    counts = counter.get_flop_counts()["Global"]
    executed = sum(
        count for operation, count in counts.items() if "attention" not in str(operation) and "bmm" not in str(operation)
    )
    least = floor(about.sizes(task, about.data), None, 1.0)
    assert executed / frames.shape[:2].numel() == pytest.approx((least.network + least.vocabulary) / 3, rel=0.01)
