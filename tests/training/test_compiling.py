"""What can be compiled gives the same losses; what cannot runs as it is, with a notice."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings
from small_images import image_ebt
from small_models import language_ebt, sudoku_ebt
from small_videos import video_ebt
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.language.task import LanguageTask
from ebt.problems.sudoku.configuration import EBTSudokuConfig
from ebt.problems.sudoku.models import EBTForSudoku
from ebt.thinking import Recipe, supervise
from ebt.training.compiling import CompileWarning, compile_parts, graphs

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(autouse=True)
def _same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of gradients are taken alike with and without ``--compile``."""
    monkeypatch.setitem(trainings.RECIPES, "s1", replace(trainings.RECIPES["s1"], second_order="exact"))


@pytest.mark.slow
def test_a_compiled_context_encoder_gives_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings.write_text(tmp_path)
    _, plain = trainings.train("text", tmp_path)
    compiled, calls = torch.compile, []

    def eager(function: Any) -> Any:
        fast = compiled(function, backend="aot_eager")
        return lambda *args, **kwargs: (calls.append(1), fast(*args, **kwargs))[1]

    monkeypatch.setattr(torch, "compile", eager)
    monkeypatch.setattr(LanguageTask, "compiles", True)
    _, watch = trainings.train("text", tmp_path)
    assert calls
    assert watch.losses == pytest.approx(plain.losses, abs=1e-6)


def test_a_failure_is_told_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainings.write_text(tmp_path)
    _, plain = trainings.train("text", tmp_path)

    def broken(*_: Any, **__: Any) -> Any:
        raise torch._dynamo.exc.TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function: broken)
    monkeypatch.setattr(LanguageTask, "compiles", True)
    with pytest.warns(CompileWarning, match=r"--compile failed: the context encoder runs uncompiled.*no compiler"):
        _, watch = trainings.train("text", tmp_path)
    assert watch.losses == plain.losses


def test_a_bidirectional_ebt_has_nothing_to_compile() -> None:
    with pytest.raises(InputError, match="only with central differences"):
        compile_parts(EBTForSudoku(EBTSudokuConfig(4, **trainings.SIZES)))


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=draw, dtype=torch.float64)


CASES: dict[str, tuple[Callable[[], Any], Callable[[torch.Generator], tuple[Tensor, Tensor]]]] = {
    "language": (
        lambda: language_ebt(11),
        lambda draw: (torch.randint(11, (4, 7), generator=draw), torch.randint(11, (4, 7), generator=draw)),
    ),
    "sudoku": (
        lambda: sudoku_ebt(head="bilinear"),
        lambda draw: (torch.randint(5, (4, 16), generator=draw), torch.randint(4, (4, 16), generator=draw)),
    ),
    "images": (image_ebt, lambda draw: (normal(draw, 4, 3, 16, 16), normal(draw, 4, 3, 16, 16))),
    "video": (
        lambda: video_ebt(None, frame_dim=6),
        lambda draw: (normal(draw, 4, 5, 6), normal(draw, 4, 5, 6)),
    ),
}
"""For each problem, a model and its batches of contexts and targets."""


def curve(problem: str, recipe: Recipe, compiled: bool, warm: bool = False) -> tuple[list[float], list[int]]:
    """Losses of a few updates, and the number of compiled graphs after each."""
    make, batch = CASES[problem]
    model, draw = make().train(), torch.Generator().manual_seed(1)
    if compiled:
        compile_parts(model, differences=True)
    optimiser, losses, counts = torch.optim.SGD(model.parameters(), 1e-3), [], []
    for _ in range(4):
        context, target = batch(draw)
        parts, geometry = model.parts(context), model.geometry()
        start = geometry.start(parts, 1.0, draw)
        landscape = model.landscape(context).unseen() if warm else model.landscape(context)
        thinking = landscape, geometry, model.update(), start, target, model.step_size
        loss = supervise(*thinking, recipe, draw).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        counts.append(graphs(model) if compiled else 0)
    return losses, counts


@pytest.mark.slow
def test_the_blocks_of_a_latent_descent_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **more: compiled(function, backend="aot_eager", **more))
    torch.compiler.reset()
    monkeypatch.setitem(
        CASES, "sudoku", (lambda: sudoku_ebt(head="bilinear", head_init="unit", latent=True), CASES["sudoku"][1])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        losses, counts = curve("sudoku", Recipe(2, 2), compiled=True)
    expected, _ = curve("sudoku", Recipe(2, 2), compiled=False)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert counts[0] >= 1
    assert counts[-1] == counts[0]


@pytest.mark.slow
@pytest.mark.parametrize(("problem", "recipe"), [("language", "full"), ("sudoku", "s1"), ("images", "s1"), ("video", "s1")])
def test_the_whole_step_is_compiled(problem: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **more: compiled(function, backend="aot_eager", **more))
    torch.compiler.reset()
    way = Recipe.s1(2, second_order="central") if recipe == "s1" else Recipe(2, 3, second_order="central")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        losses, counts = curve(problem, way, compiled=True)
    expected, _ = curve(problem, way, compiled=False)
    assert losses == pytest.approx(expected, rel=1e-6)
    assert counts[1] >= 2  # energy with gradient, nudged ends
    assert counts[-1] == counts[1]  # no recompilation after the first updates


@pytest.mark.slow
def test_a_warm_start_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **more: compiled(function, backend="aot_eager", **more))
    torch.compiler.reset()
    way = Recipe(1, 1, second_order="exact")
    with warnings.catch_warnings():
        warnings.simplefilter("error", CompileWarning)
        losses, counts = curve("language", way, compiled=True, warm=True)
    assert losses == pytest.approx(curve("language", way, compiled=False, warm=True)[0], rel=1e-6)
    assert counts[0] == counts[-1] == 2  # the context, and the blocks of the predictions
