"""Tiny models with random weights in double precision, and folders of them, for the tests of evaluation and commands."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ebt.problems.folder import save_folder
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.tokenizers import byte_tokenizer
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.models import EBTForSudoku, SudokuTransformer
from ebt.thinking import Places

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "max_epochs": -1,
}
"""Settings of a trainer that shows and writes nothing."""
SIZES = {"layers": 1, "dim": 16, "heads": 2}
BYTES = 257
CONTEXT = 24

Model = TypeVar("Model", bound=nn.Module)


def scramble(model: Model, seed: int = 0) -> Model:
    """Random matrices everywhere: fresh models have flat energies and zero heads."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator).double() * 2 * parameter.shape[-1] ** -0.5)
    return model


def language_ebt(vocab_size: int = BYTES, **config: Any) -> EBTForCausalLM:
    return scramble(EBTForCausalLM(EBTConfig(vocab_size, CONTEXT, **{**SIZES, "step_size": 2.0, **config})))


def language_twin(vocab_size: int = BYTES) -> TransformerPPForCausalLM:
    return scramble(TransformerPPForCausalLM(TransformerPPConfig(vocab_size, CONTEXT, **SIZES)))


def sudoku_ebt(board: int = 4, **config: Any) -> EBTForSudoku:
    return scramble(EBTForSudoku(EBTSudokuConfig(board, **{**SIZES, "step_size": 2.0, **config})))


def sudoku_rival(loop: str, board: int = 4) -> SudokuTransformer:
    return scramble(SudokuTransformer(SudokuTransformerConfig(board, loop, **SIZES)))


def language_folder(folder: Path, twin: bool = False) -> str:
    """A saved language model with the tokeniser of bytes."""
    return str(save_folder(language_twin() if twin else language_ebt(), folder, byte_tokenizer()))


def sudoku_folder(folder: Path, board: int = 4, loop: str | None = None) -> str:
    """A saved model of boards."""
    return str(save_folder(sudoku_ebt(board) if loop is None else sudoku_rival(loop, board), folder))


def close(value: Any, other: Any) -> bool:
    """Whether two JSON values are alike up to rounding, which differs between processes."""
    if isinstance(value, dict):
        return value.keys() == other.keys() and all(close(value[key], other[key]) for key in value)
    if isinstance(value, list):
        return len(value) == len(other) and all(map(close, value, other))
    if isinstance(value, float) and isinstance(other, float):
        return abs(value - other) <= 1e-7 * max(1.0, abs(value))
    return bool(value == other)


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def starts(model: Any, parts: tuple[int, ...], candidates: int = 1, seed: int = 0) -> Tensor:
    """Where the candidates of contexts with parts (B, *P) start, candidate-major."""
    rows, *rest = parts
    return model.geometry().start((candidates * rows, *rest), model.thinking.start_std, Places(seed, candidates).at(-1))
