"""`ebt fit`, `ebt validate` and `ebt test`: a run from its configuration to its results; stopped, resumed, misconfigured."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from forked import begin, program
from small_models import full_disk

from ebt.cli.checkpoints import Checkpoints, Stopped, check_hyperparameters
from ebt.cli.main import main
from ebt.cli.run import Run, absolute
from ebt.cli.training import configure
from ebt.errors import InputError
from ebt.problems.folder import load_folder, load_tokenizer_of
from ebt.problems.language.corpora import Document
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.tokenizers import train_bpe
from ebt.training.sharded_checkpoints import is_sharded

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "ebt" / "problems").glob("*/configs/*.yaml"))
NETWORK = ["--model.network.size=nano", "--model.network.layers=1", "--model.network.dim=8", "--model.network.heads=2"]
SUDOKU = [
    "--config=sudoku/ebt-s2",
    *NETWORK,
    "--data.size=4",
    "--data.train_count=20",
    "--data.train_givens=[6,9]",
    "--data.validation_count=4",
    "--data.test_count=2",
    "--data.test_givens=[6,8]",
    "--data.batch_size=3",
    "--model.recipe.replay_size=12",
]
MAZES = [
    *NETWORK,
    "--data.train_sizes=[7]",
    "--data.train_count=6",
    "--data.validation_count=2",
    "--data.test_sizes=[7]",
    "--data.test_count=2",
    "--data.batch_size=3",
]
IMAGES = [*NETWORK, "--data.size=16", "--data.crops=2", "--data.evaluation_crops=1", "--data.batch_size=2"]
VIDEO = [
    *NETWORK,
    "--data.size=10",
    "--data.context_length=4",
    "--data.clips=8",
    "--data.evaluation_clips=2",
    "--data.batch_size=2",
]
VIDEO += ["--data.speeds=[1]", "--data.shifted.speeds=[2]"]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options for a tiny language model on a tiny text; runs go into an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EBT_RUN_FOLDER", raising=False)
    (tmp_path / "text.txt").write_text("\n\n".join(f"{i} quick brown foxes jump over {i * i} lazy dogs." for i in range(400)))
    data = ["--data.source=text.txt", "--data.context_length=16", "--data.batch_size=2", "--data.evaluation_batch_size=4"]
    return [*NETWORK, *data, "--model.sample_tokens=4", *(f"--trainer.limit_{name}_batches=2" for name in ("val", "test"))]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EBT_RUN_FOLDER", raising=False)
    return tmp_path


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def test_a_run_from_configuration_to_results(text: list[str], tmp_path: Path, capsys: Captured) -> None:
    config = "language/ebt"
    trained = ["--trainer.max_steps=6", "--trainer.val_check_interval=3", "--seed=5", "--model.network.input_gradient=false"]
    assert main(["fit", f"--config={config}", *text, *trained]) == 0
    told, warned = capsys.readouterr()
    assert "arning" not in warned
    assert "parameters" in told
    assert "text.txt" in told
    assert "gradients of gradients  exact (auto: CPU)" in told
    assert "candidate embedding" in told
    assert told.count("val/loss") == 2
    assert told.count("sample: ") == 2
    run = tmp_path / "runs" / "language-ebt"
    results = json.loads((run / "results.json").read_text())
    assert (results["updates"], results["seed"], results["data"]["source"]) == (6, 5, "text.txt")
    assert results["second_order"] == {"way": "exact", "nudge": None, "reason": "auto: CPU"}
    best = results["best"]["metrics"]["val/loss"]
    assert isinstance(load_folder(run, EBTForCausalLM), EBTForCausalLM)
    assert len(load_tokenizer_of(run)) == 257
    assert "second_order/way: exact" in (run / "logs" / "tensorboard" / "hparams.yaml").read_text()
    (metrics,) = (run / "logs").glob("csv/*/metrics.csv")
    assert "val/loss_at_8" in metrics.read_text()
    assert list((run / "logs" / "tensorboard").glob("events*"))

    assert main(["validate", "--checkpoint", str(run)]) == 0
    assert main(["test", "--checkpoint", str(run), "--model.validation_steps=[1,6]"]) == 0
    assert "at 6" in capsys.readouterr().out
    results = json.loads((run / "results.json").read_text())
    assert results["validation"]["metrics"]["val/loss"] == best
    assert results["test"]["metrics"].keys() >= {"test/loss", "test/perplexity_at_6"}

    assert main(["fit", f"--config={config}", *text, "--name=language-ebt"]) == 2
    assert "already contains a run" in capsys.readouterr().err
    assert main(["fit", "--resume", "--name=language-ebt", "--trainer.max_steps=8"]) == 0
    assert json.loads((run / "results.json").read_text())["updates"] == 8
    assert "continues at update 6" in capsys.readouterr().out
    assert main(["fit", "--resume", "--name=language-ebt", "--model.network.dim=16"]) == 2
    assert "does not match" in capsys.readouterr().err


TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.max_steps=4", "--trainer.val_check_interval=2"]
TWO += ["--config=language/ebt", "--out=run"]


def test_torchrun_with_sharded_weights_leaves_a_run_for_one_process(text: list[str], tmp_path: Path, capsys: Captured) -> None:
    """Its processes are forked from the launcher: each would import for seconds what the launcher has imported."""
    started = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    script = ["--start-method=fork", "--run-path", str(ROOT / "ebt" / "cli" / "main.py")]
    done = program(*started, *script, "fit", *text, *TWO, "--trainer.strategy=fsdp")
    assert "2 x cpu" in done.stdout
    assert done.stdout.count("sample: ") == 2

    run, one = tmp_path / "run", ["--trainer.devices=1", "--trainer.strategy=auto"]
    assert json.loads((run / "results.json").read_text())["task"] == "LanguageTask"
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model = load_folder(run, EBTForCausalLM)
    assert all(torch.equal(best[f"model.{name}"], weight) for name, weight in model.state_dict().items())
    assert main(["validate", f"--checkpoint={run}", *one]) == 0
    assert is_sharded(run / "checkpoints" / "last.ckpt")
    assert main(["fit", "--resume", f"--out={run}", *one, "--trainer.max_steps=6"]) == 0
    out, error = capsys.readouterr()
    assert "continues at update 4" in out
    assert "with world size 2, and this run has world size 1" in error
    assert (run / "checkpoints" / "last.ckpt").is_file()


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_srun_starts_two_processes(text: list[str], tmp_path: Path) -> None:
    shared = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "ebt", "SLURM_JOB_ID": "1", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    shared |= {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": free_port()}
    arguments = ["-m", "ebt.cli.main", "fit", *text, *TWO, "--trainer.strategy=fsdp"]
    tasks = [begin(*arguments, env={**shared, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}) for i in range(2)]
    first, _ = (task.ended(check=True) for task in tasks)
    assert "2 x cpu" in first.stdout
    assert json.loads((tmp_path / "run" / "results.json").read_text())["updates"] == 4


MANY = [*SUDOKU, "--trainer.max_steps=80", "--trainer.val_check_interval=40", "--checkpoint_every=4", "--loggers=[csv]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with patch.dict(os.environ):  # a run leaves its folder there
        os.environ.pop("EBT_RUN_FOLDER", None)
        assert main(["fit", *MANY, "--checkpoint_every=80", f"--out={folder}"]) == 0
    return weights(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_run_that_resumes_exactly(
    number: signal.Signals, empty: Path, whole: dict[str, torch.Tensor], capsys: Captured
) -> None:
    command = begin("-m", "ebt.cli.main", "fit", *MANY, "--out=part")
    last = empty / "part" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.is_file() and command.process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    command.signal(number)
    done = command.ended()
    assert done.returncode == 128 + number, done.stderr
    assert "To continue: ebt fit --resume --out part" in done.stderr
    assert "Traceback" not in done.stderr
    stopped = torch.load(last, weights_only=True)["global_step"]
    assert 4 <= stopped < 80

    assert main(["fit", "--resume", "--out=part", "--checkpoint_every=80"]) == 0
    assert f"continues at update {stopped}" in capsys.readouterr().out
    resumed = weights(empty / "part")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: f"{path.parents[1].name}-{path.stem}")
def test_every_configuration_trains(config: Path, text: list[str], capsys: Captured) -> None:
    small = {"language": text, "sudoku": SUDOKU[1:-1], "mazes": MAZES, "images": IMAGES, "video": VIDEO}
    settings = small[config.parents[1].name]
    assert main(["fit", f"--config={config}", *settings, "--trainer.fast_dev_run=2"]) == 0
    assert "val/loss" in capsys.readouterr().out
    assert not Path("runs").exists()


WRONG: dict[str, tuple[list[str], list[str]]] = {
    "unknown key": (["--model.recipe.max_stepz=5"], ["no setting model.recipe.max_stepz"]),
    "unknown group": (["--trainer.max_stepz=5"], ["no setting trainer.max_stepz"]),
    "wrong type": (["--model.recipe.max_steps=many"], ["recipe.max_steps", "int", "many"]),
    "wrong choice": (["--model.recipe.gradients=some"], ["recipe.gradients", "truncated", "some"]),
    "contradiction": (["--model.recipe.max_steps=1"], ["min_steps 2 and max_steps 1"]),
    "S1 with noise": (["--model.recipe.gradients=detached"], ["S1", "noise"]),
    "unknown size": (["--model.network.size=huge"], ["'huge'", "micro"]),
    "unknown space": (["--model.network.space=cube"], ["'cube'", "restart"]),
    "no energy": (["--model.network.kind=feed_forward"], ["feed_forward", "network.space"]),
    "unknown class": (["--model.class_path=Nope"], ["no class Nope"]),
    "no file": (["--config=nowhere.yaml"], ["nowhere.yaml", "no such file"]),
    "no data": (["--data.train_file=a.csv", "--data.validation_file=a.csv"], ["a.csv"]),
    "two clippings": (["--trainer.gradient_clip_val=1"], ["optimisation.clip"]),
    "two folders": (["--out=x", "--name=y"], ["--out", "--name"]),
    "bad seed": (["--seed=-1"], ["--seed"]),
    "nothing to resume": (["--resume", "--name=nothing"], ["runs/nothing", "no checkpoint"]),
    "unnamed resume": (["--resume"], ["--name"]),
    "unknown logger": (["--loggers=[paper]"], ["loggers", "wandb", "paper"]),
    "folder": (["--out=/proc/run"], ["/proc/run"]),
    "empty name": (["--name="], ["empty name", "--name"]),
    "no interval": (["--trainer.val_check_interval=0"], ["val_check_interval is 0", "limit_val_batches"]),
    "more updates than the most": (["--trainer.min_steps=100", "--trainer.max_steps=4"], ["min_steps is 100", "max_steps 4"]),
    "sharded weights": (["--trainer.strategy=deepspeed"], ["deepspeed", "use fsdp"]),
    "double backward of sharded weights": (
        ["--trainer.strategy=fsdp", "--model.recipe.second_order=exact"],
        ["second_order is exact", "sharded weights", "set it to central or auto"],
    ),
    "float64 with sharded weights": (
        ["--trainer.strategy=fsdp", "--trainer.precision=64-true"],
        ["64-true", "sharded weights", "32-true"],
    ),
    "no such device": (["--trainer.accelerator=tpu"], ["tpu", "choose cpu, or auto"]),
    "no device": (["--trainer.devices=0"], ["trainer.devices", "at least 1"]),
    "too many processes": (["--trainer.accelerator=cpu", "--trainer.devices=5000"], ["5000", "cores"]),
    "machines that nothing connects": (["--trainer.num_nodes=2"], ["trainer.num_nodes", "torchrun"]),
    "float16 on a CPU": (["--trainer.accelerator=cpu", "--trainer.precision=16-mixed"], ["16-mixed", "bf16-mixed"]),
    "float16": (["--trainer.accelerator=cpu", "--trainer.precision=16-true"], ["16-true", "bf16-mixed"]),
    "nudge": (["--model.recipe.second_order=central", "--model.recipe.nudge=1e-6"], ["recipe.nudge", "float32", "at least"]),
    "nudge, mixed": (
        ["--model.recipe.second_order=central", "--model.recipe.nudge=0.01", "--trainer.precision=bf16-mixed"],
        ["recipe.nudge is 0.01", "bfloat16", "at least 0.03"],
    ),
    "nudge, 16 bits": (
        ["--model.recipe.second_order=central", "--model.recipe.nudge=0.01", "--trainer.precision=bf16-true"],
        ["recipe.nudge is 0.01", "bfloat16"],
    ),
    "nothing to compile, sharded": (
        ["--compile", "--trainer.strategy=fsdp"],
        ["--compile has nothing to compile", "trainer.strategy to auto or ddp"],
    ),
    "nothing to compile": (
        ["--compile", "--name=compiled", "--model.recipe.second_order=exact"],
        ["--compile has nothing to compile"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_told_in_a_line(case: str, empty: Path, capsys: Captured) -> None:
    arguments, words = WRONG[case]
    assert main(["fit", *SUDOKU[:-1], *arguments]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("ebt: error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert "usage" not in out + error
    assert not (empty / "runs").exists()


def test_settings_are_turned_off_by_null(empty: Path, capsys: Captured) -> None:
    """After a value, in the same call or in a configuration; in both forms of an option."""
    for off in (["--model.recipe.clamp", "null"], ["--model.recipe.clamp=null"], ["--model.init_args.recipe.clamp=null"]):
        options = ["--model.recipe.clamp=3", "--model.network.dim=8", *off, "--model.network.dim", "null", "--print_config"]
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--config=language/ebt", *options])
        read = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
        assert (read["recipe"]["clamp"], read["network"]["dim"], read["network"]["size"]) == (None, None, "micro")


@pytest.mark.parametrize("option", ["--model.sample_prompt=longer than the context of 16", "--model.sample_tokens=1"])
def test_a_sample_of_any_length_is_written(option: str, text: list[str], capsys: Captured) -> None:
    few = ["--config=language/ebt", "--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    assert main(["fit", *few, *text, option]) == 0
    assert capsys.readouterr().out.count("sample: ") == 1


def test_an_interval_longer_than_the_epochs_that_it_divides_is_told(empty: Path, capsys: Captured) -> None:
    assert main(["fit", *SUDOKU, "--out=run", "--loggers=[]", "--trainer.check_val_every_n_epoch=1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("ebt: error: `val_check_interval`")
    assert error.count("\n") == 1


def test_memory_that_runs_out_is_told_with_its_part(empty: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 73400320 bytes.")

    monkeypatch.setattr("ebt.nn.encoder.run_blocks", fail)
    assert main(["fit", *SUDOKU, "--out=run", "--trainer.max_steps=2", "--trainer.num_sanity_val_steps=0"]) == 2
    error = capsys.readouterr().err
    assert "activations of thinking, which requested 70 MiB more: lower data.batch_size" in error
    assert "`ebt plan`" in error


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("model: {init_args: {recip: {max_steps: 3}}}", ["no setting model.recip"]),
        ("model: {init_args: {recipe: {max_stepz: 3}}}", ["no setting model.recipe.max_stepz"]),
        ("trainer: {max_stepz: 3}", ["no setting trainer.max_stepz"]),
        ("trainr: {max_steps: 3}", ["no setting trainr"]),
        ("model: [1, 2", ["mine.yaml is not valid YAML"]),
        ("only words", ["mine.yaml has no settings"]),
        ("", ["mine.yaml has no settings"]),
        ("data: {init_args: {seed: 3}}", ["data.init_args.seed", "seed_everything"]),
    ],
)
def test_wrong_files_are_told_in_a_line(written: str, words: list[str], empty: Path, capsys: Captured) -> None:
    (empty / "mine.yaml").write_text(written)
    assert main(["fit", *SUDOKU, "--config=mine.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def test_wandb_is_asked_for_by_name(empty: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["fit", *SUDOKU, "--loggers=[wandb]"]) == 2
    assert "pip install wandb" in capsys.readouterr().err


def test_data_of_another_task_is_refused_without_blocking_the_name(empty: Path, capsys: Captured) -> None:
    (empty / "text.txt").write_text("words " * 400)
    wrong = ["--data=TextDataModule", "--data.source=text.txt", "--data.fractions=[1,0,0]", "--data.context_length=8"]
    for _ in range(2):
        assert main(["fit", SUDOKU[0], *NETWORK, *wrong, "--name=mixed"]) == 2
        assert "SudokuTask needs data with size" in capsys.readouterr().err


def test_whole_numbers_stay_whole(empty: Path, capsys: Captured) -> None:
    """1 batch is not 1.0, all batches, whatever was imported before."""
    text = "from ebt.cli.main import main; main(['fit', *__import__('sys').argv[1:]])"
    done = program("-c", text, *SUDOKU, "--trainer.limit_val_batches=1", "--print_config", check=False)
    assert "  limit_val_batches: 1\n" in done.stdout


def test_model_folders_of_other_problems_are_measured_by_think(capsys: Captured) -> None:
    for data in ([], ["--data=x.csv"]):
        assert main(["validate", "--checkpoint=sudoku-6x6", *data]) == 2
        assert "use `ebt think`" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["validate", "test"])
def test_evaluation_needs_a_run(command: str, empty: Path, capsys: Captured) -> None:
    assert main([command, "--checkpoint", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert f"ebt {command} --checkpoint runs/text" in capsys.readouterr().out


def test_help_has_an_example_and_leads_on(capsys: Captured, empty: Path) -> None:
    for arguments, words in (
        (["--help"], ["ebt fit --config language/ebt --name text", "--resume", "--model.help"]),
        (["--model.help", "SudokuTask"], ["recipe.max_steps", "network.kind", "optimisation.lr"]),
    ):
        with pytest.raises(SystemExit) as done:
            main(["fit", *arguments])
        assert done.value.code == 0
        out: Any = capsys.readouterr().out
        assert all(word in out for word in words), out


def test_a_full_disk_leaves_the_checkpoint_and_the_command_to_go_on(text: list[str], tmp_path: Path, capsys: Captured) -> None:
    config = "--config=language/ebt"
    settings = [config, *text, "--out=run", "--loggers=[csv]", "--checkpoint_every=2", "--trainer.val_check_interval=2"]
    assert main(["fit", *settings, "--trainer.max_steps=2"]) == 0
    before = weights(tmp_path / "run")
    with full_disk(4_000):
        assert main(["fit", "--resume", *settings, "--trainer.max_steps=6"]) == 2
    assert "Then continue: ebt fit --resume --out run" in capsys.readouterr().err
    after = weights(tmp_path / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_configuration_does_not_end_a_run(empty: Path, capsys: Captured) -> None:
    assert main(["fit", *SUDOKU, "--out=run", "--trainer.max_steps=2", "--loggers=[]"]) == 0
    before = (empty / "run" / "config.yaml").read_text()
    assert main(["fit", "--resume", "--out=run", "--trainer.max_steps=4", "--model.network.dim=16"]) == 2
    assert "keep the settings of the network" in capsys.readouterr().err
    assert (empty / "run" / "config.yaml").read_text() == before
    results = (empty / "run" / "results.json").read_text()
    assert main(["fit", "--resume", "--out=run"]) == 0
    assert "run has 2 updates already: raise trainer.max_steps" in capsys.readouterr().out
    assert (empty / "run" / "results.json").read_text() == results
    assert main(["fit", "--resume", "--out=run", "--trainer.max_steps=3"]) == 0
    assert "max_steps: 3" in (empty / "run" / "config.yaml").read_text()


def test_a_run_stopped_in_its_last_validation_is_finished_by_resuming(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Checkpoints, trainer: L.Trainer, *__: object) -> None:
        if not trainer.sanity_checking:
            raise Stopped(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "on_validation_batch_end", stop)
        assert main(["fit", *SUDOKU, "--out=run", "--trainer.max_steps=2", "--loggers=[]"]) == 143
    last = (empty / "run" / "checkpoints" / "last.ckpt").read_bytes()
    assert not (empty / "run" / "model").exists()
    assert main(["fit", "--resume", "--out=run"]) == 0
    assert load_folder(empty / "run") is not None
    assert json.loads((empty / "run" / "results.json").read_text())["best"]["update"] == 2
    assert (empty / "run" / "checkpoints" / "last.ckpt").read_bytes() == last


def test_two_processes_do_not_train_in_one_folder(empty: Path, capsys: Captured) -> None:
    with Run(empty / "run").alone():
        assert main(["fit", *SUDOKU, "--out=run", "--loggers=[]"]) == 2
    assert "another process trains in run" in capsys.readouterr().err
    assert main(["fit", *SUDOKU, "--out=run", "--loggers=[]", "--trainer.max_steps=1"]) == 0


@pytest.mark.parametrize("damage", [None, b"", b"a: [", b"- a", b"\xff"])
def test_a_damaged_configuration_of_a_run_is_named(damage: bytes | None, empty: Path, capsys: Captured) -> None:
    (empty / "run" / "checkpoints").mkdir(parents=True)
    (empty / "run" / "checkpoints" / "last.ckpt").write_bytes(b"hello")
    if damage is not None:
        (empty / "run" / "config.yaml").write_bytes(damage)
    assert main(["fit", "--resume", "--out=run"]) == 2
    assert "run/config.yaml cannot be read" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(empty: Path, capsys: Captured) -> None:
    (empty / "run" / "checkpoints").mkdir(parents=True)
    for damage in (b"", b"hello", bytes(99)):
        (empty / "run" / "checkpoints" / "last.ckpt").write_bytes(damage)
        assert main(["fit", "--resume", *SUDOKU, "--out=run", "--loggers=[]"]) == 2
        assert "run/checkpoints/last.ckpt cannot be read" in capsys.readouterr().err


def test_a_short_run_is_validated_at_its_end(empty: Path, capsys: Captured) -> None:
    assert main(["fit", *SUDOKU, "--out=run", "--trainer.max_steps=3", "--loggers=[csv]"]) == 0
    told, results = capsys.readouterr().out, json.loads((empty / "run" / "results.json").read_text())
    assert told.count("update 3  val/loss") == 1
    assert results["best"]["update"] == 3
    assert results["last"]["update"] == 3
    assert f"train/loss {results['last']['metrics']['train/loss']:.4g}" in told
    assert main(["validate", "--checkpoint=run/checkpoints/last.ckpt"]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_without_validation_tells_its_last_loss(empty: Path, capsys: Captured) -> None:
    assert main(["fit", *SUDOKU, "--out=run", "--trainer.max_steps=2", "--trainer.limit_val_batches=0"]) == 0
    assert "update 2  train/loss" in capsys.readouterr().out
    assert json.loads((empty / "run" / "results.json").read_text())["best"] == {}
    assert main(["validate", "--checkpoint=run", "--trainer.limit_val_batches=1"]) == 0
    assert capsys.readouterr().err == ""


def test_a_run_folder_works_from_anywhere(text: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_bpe((Document(line) for line in Path("text.txt").read_text().split("\n\n")), 260).save_pretrained("mine")
    settings = [*text, "--data.tokenizer=mine", "--loggers=[csv]", "--trainer.max_steps=1"]
    assert main(["fit", "--config=language/ebt", *settings]) == 0
    shutil.rmtree("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = tmp_path / "runs" / "language-ebt"
    assert main(["test", f"--checkpoint={run}"]) == 0
    assert main(["fit", "--resume", f"--out={run}", "--trainer.max_steps=2"]) == 0
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_a_run_of_a_size_with_another_inner_width(text: list[str], tmp_path: Path, capsys: Captured) -> None:
    """Earlier versions built the paper's sizes with the inner width of Llama 2, and config.yaml names the size only."""
    old = [*text, "--model.network.size=llama-xxs", "--loggers=[csv]", "--trainer.max_steps=1"]
    assert main(["fit", "--config=language/ebt", *old, "--out=run"]) == 0
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("llama-xxs", "xxs"))
    assert main(["test", "--checkpoint=run"]) == 0
    assert main(["fit", "--resume", "--out=run", "--trainer.max_steps=2"]) == 0
    shutil.rmtree(tmp_path / "run" / "model")
    config.write_text(config.read_text().replace("ffn_dim: 32", "ffn_dim: null"))
    capsys.readouterr()
    for command in (["test", "--checkpoint=run"], ["fit", "--resume", "--out=run", "--trainer.max_steps=3"]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "does not match this model" in error
        assert "set model.network.size to llama-xxs" in error


def test_saved_settings_with_paths_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ebt", "photos", "texts", "a.csv"):
        (tmp_path / name).mkdir()
    given = {
        "kind": "ebt",
        "source": "photos",
        "validation_source": "texts",
        "test_files": {"x": ["a.csv"]},
        "prompt": "x/" * 999,
    }
    expected = {**given, "validation_source": str(tmp_path / "texts"), "test_files": {"x": [str(tmp_path / "a.csv")]}}
    assert absolute(given) == expected


@pytest.mark.parametrize(
    ("configs", "folder"),
    [
        (["language/ebt"], "language-ebt"),
        ([str(CONFIGS[0])], f"{CONFIGS[0].parents[1].name}-{CONFIGS[0].stem}"),
        (["configs/sudoku/ebt.yaml"], "sudoku-ebt"),
        (["../mine.yaml"], "mine"),
        ([], "run"),
    ],
)
def test_a_run_is_named_after_its_configuration(configs: list[str], folder: str, empty: Path) -> None:
    assert Run.new(None, None, configs).folder == Path("runs") / folder


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("--data.train_cont=3", ["data.train_cont", "data.train_count?", "--data.help SudokuDataModule"]),
        ("--data.zzz=3", ["data.zzz", "--data.help SudokuDataModule"]),
        ("--model.recipe.max_stepz=5", ["model.recipe.max_steps?", "--model.help SudokuTask"]),
        ("--trainer.max_stepz=5", ["trainer.max_steps?", "--help-all"]),
        ("--datta.size=4", ["datta.size", "data?"]),
    ],
)
def test_a_setting_that_does_not_exist_leads_to_the_right_one(
    setting: str, words: list[str], empty: Path, capsys: Captured
) -> None:
    assert main(["fit", *SUDOKU, setting]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_saved_configurations_of_the_former_layout_load(empty: Path) -> None:
    old = "model: {class_path: ebt.tasks.sudoku.SudokuTask}\ndata:\n  class_path: 'ebt.data.sudoku.SudokuDataModule'\n"
    (empty / "old.yaml").write_text(old)
    cli = configure(["--config=old.yaml", "--model=ebt.tasks.SudokuTask"])
    assert (type(cli.model).__name__, type(cli.datamodule).__name__) == ("SudokuTask", "SudokuDataModule")


@pytest.mark.parametrize("value", [Path("x"), signal.SIGINT, np.float64(3), lambda: 0], ids=["Path", "Enum", "numpy", "lambda"])
def test_hyperparameters_that_no_checkpoint_gives_back_are_told(value: Any) -> None:
    module = L.LightningDataModule()
    module.save_hyperparameters({"plain": 3, "tensor": torch.ones(2)})
    check_hyperparameters(module)
    module.save_hyperparameters({"own_setting": value})
    with pytest.raises(InputError, match="own_setting"):
        check_hyperparameters(module)
