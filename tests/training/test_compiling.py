"""What can be compiled gives the same losses; what cannot runs as it is, with a notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import trainings

from ebt.errors import InputError
from ebt.problems.language.task import LanguageTask
from ebt.problems.sudoku.configuration import EBTSudokuConfig
from ebt.problems.sudoku.models import EBTForSudoku
from ebt.training.compiling import CompileWarning, compile_parts

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
    with pytest.raises(InputError, match="differentiated twice"):
        compile_parts(EBTForSudoku(EBTSudokuConfig(4, **trainings.SIZES)))
