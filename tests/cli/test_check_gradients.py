"""``ebt fit --check-gradients``: every problem, tasks of one's own, runs, and what cannot be compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebt.cli.main import main

NETWORK = ["--model.network.size=nano", "--model.network.layers=1", "--model.network.dim=8", "--model.network.heads=2"]
SUDOKU = [
    "--data.size=4",
    "--data.train_count=6",
    "--data.train_givens=[8,9]",
    "--data.validation_count=2",
    "--data.test_count=1",
]
SUDOKU += ["--data.test_givens=[8]", "--data.batch_size=2"]
DATA = {
    "language/ebt": ["--data.source=text.txt", "--data.context_length=8", "--data.batch_size=2"],
    "language/ebt-s2": ["--data.source=text.txt", "--data.context_length=8", "--data.batch_size=2"],
    "sudoku/ebt": SUDOKU,
    "images/ebt": ["--data.size=16", "--data.crops=1", "--data.batch_size=2"],
    "video/ebt": ["--data.size=12", "--data.context_length=4", "--data.clips=4", "--data.batch_size=2"],
}
OWN = """
import itertools

import lightning as L
import torch
from torch.utils.data import DataLoader

from ebt.thinking import Euclidean, StepSize
from ebt.training.task import ThinkingTask


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, slope):
        return 2 * ctx.saved_tensors[0] * slope


class Never(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()


KINDS = {
    "smooth": lambda y, w: (w * y).sin().sum(-1),
    "rough": lambda y, w: (w * y * 20).sin().sum(-1) / 20,
    "rougher": lambda y, w: (w * y * 4000).sin().sum(-1) / 4000,
    "once": lambda y, w: (w * Square.apply(y)).sum(-1),
    "incomplete": lambda y, w: Square.apply(w * y).sum(-1),
    "never": lambda y, w: Never.apply(w * y).sum(-1),
    "bent": lambda y, w: (w * y).sin().sum(-1) + (w * (y - y.detach())).abs().pow(1.5).sum(-1),
    "nan when nudged": lambda y, w: (w * y).sin().sum(-1),
    "compared": lambda y, w: w.sum() * (y > 0).float().sum(-1),
}


class Waves(ThinkingTask):
    def __init__(self, kind: str = "smooth", **settings):
        super().__init__(**settings)
        self.kind, self.weight, self.alpha = kind, torch.nn.Parameter(torch.ones(3)), StepSize(0.1)

    def landscape(self, batch):
        calls = itertools.count()
        def waves(y):
            broken = self.kind == "nan when nudged" and next(calls) >= 2  # after one evaluation for each step
            return KINDS[self.kind](y, self.weight) * (torch.nan if broken else 1)
        return waves

    def geometry(self):
        return Euclidean(1, (3,))

    def target(self, batch):
        return batch["x"]

    def parts(self, batch):
        return (len(batch["x"]),)


class Points(L.LightningDataModule):
    def __init__(self, seed: int = 0):
        super().__init__()

    def train_dataloader(self):
        return DataLoader([{"x": torch.randn(3)} for _ in range(4)], batch_size=2)
"""
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EBT_RUN_FOLDER", raising=False)
    (tmp_path / "text.txt").write_text("\n\n".join(f"{i} foxes jump over {i * i} dogs." for i in range(100)))
    (tmp_path / "own_waves.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def errors(out: str) -> list[float]:
    """The relative errors of all weights and the worst parameters."""
    return [float(found) for found in re.findall(r"^ (?:all weights|model\.\S+|weight|alpha\S*)\s+(\S+)", out, re.MULTILINE)]


@pytest.mark.parametrize("config", DATA)
def test_every_problem_is_checked(config: str, capsys: Captured) -> None:
    assert main(["fit", f"--config={config}", "--check-gradients", *NETWORK, *DATA[config]]) == 0
    out = capsys.readouterr().out
    assert "nudge 0.005" in out
    assert "have no gradient with new weights" in out
    assert max(errors(out)) < 5e-3
    losses = dict(re.findall(r"^ (exact|central) +(\S+)", out, re.MULTILINE))
    assert losses["exact"] == losses["central"]
    assert not Path("runs").exists()


def test_a_run_is_checked_with_its_last_weights_and_stays_as_it_is(capsys: Captured) -> None:
    settings = [
        f"--config={'sudoku/ebt'}",
        *NETWORK,
        *SUDOKU,
        "--trainer.max_steps=3",
        "--loggers=[csv]",
        "--model.optimisation.lr=0.1",
    ]
    assert main(["fit", *settings, "--out=run"]) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(["fit", "--resume", "--out=run", "--check-gradients"]) == 0
    out = capsys.readouterr().out
    assert "run/checkpoints/last.ckpt" in out
    assert "new weights" not in out
    assert len(errors(out)) == 6
    assert max(errors(out)) < 5e-3
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    assert main(["fit", "--resume", "--out=run", "--check-gradients", "--model.network.dim=16"]) == 2
    assert "does not match" in capsys.readouterr().err


def own(kind: str, *settings: str) -> int:
    task = ["--model=own_waves.Waves", f"--model.kind={kind}", "--data=own_waves.Points"]
    return main(["fit", *task, "--check-gradients", *settings])


def test_a_task_of_ones_own_is_checked(capsys: Captured) -> None:
    assert own("smooth") == 0
    assert "harmless" in capsys.readouterr().out


def test_a_large_error_comes_with_what_to_do(capsys: Captured) -> None:
    assert own("rough") == 0
    out = capsys.readouterr().out
    assert errors(out)[0] > 5e-3
    nudge = re.search(r"recipe.nudge to (\S+)\.", out)
    assert nudge is not None, out
    central = ["--model.recipe.second_order=central", f"--model.recipe.nudge={nudge[1]}"]
    assert own("rough", *central) == 0
    assert errors(capsys.readouterr().out)[0] < 5e-3
    assert own("rougher") == 0
    assert "Set recipe.second_order to exact" in capsys.readouterr().out
    assert own("incomplete") == 0
    assert "double backward leaves terms out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("once", ["cannot be differentiated twice", "recipe.second_order to central"]),
        ("never", ["waves", "has no derivative", "other operations"]),
        ("compared", ["waves", "does not depend on the candidates", "differentiable"]),
    ],
)
def test_energies_that_cannot_be_differentiated_are_told(kind: str, words: list[str], capsys: Captured) -> None:
    for settings in ([], ["--model.recipe.second_order=exact"]):
        assert own(kind, *settings) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words), error
    training = ["--model=own_waves.Waves", f"--model.kind={kind}", "--data=own_waves.Points", "--trainer.limit_val_batches=0"]
    assert main(["fit", *training, "--out=run", "--trainer.max_steps=1"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bent", ["weight by double backward", "not finite", "second derivatives"]),
        ("nan when nudged", ["weight by central differences, nudge 0.005", "not finite", "Lower recipe.nudge"]),
    ],
)
def test_gradients_that_are_not_finite_are_told(kind: str, words: list[str], capsys: Captured) -> None:
    assert own(kind, "--model.recipe.min_steps=2", "--model.recipe.max_steps=2") == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config=sudoku/feed-forward"], ["--check-gradients", "without an energy"]),
        (["--config=sudoku/latent"], ["--check-gradients", "latent"]),
        (["--config=sudoku/ebt", "--compile"], ["leave --compile out"]),
        (["--config=sudoku/ebt", "--name=run"], ["writes no run", "--resume"]),
        (["--config=sudoku/ebt", "--resume"], ["--name"]),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments: list[str], words: list[str], capsys: Captured) -> None:
    size = NETWORK if "feed" not in arguments[0] else []
    assert main(["fit", "--check-gradients", *arguments, *size, *SUDOKU]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not Path("runs").exists()
