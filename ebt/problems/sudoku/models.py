"""Models that complete boards: the bidirectional EBT, its feed-forward twin, and looped transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ebt.checks import as_tensor
from ebt.errors import InputError
from ebt.models.cells import Cells, CellsTransformer, EBTForCells
from ebt.nn.blocks import Groups
from ebt.problems.sudoku.boards import parse_board
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.generator import units


class BoardEmbedding(nn.Module):
    """Embed the cells of puzzles (B, C), 0 where empty, with their row, column and box."""

    def __init__(self, board: int, dim: int) -> None:
        super().__init__()
        self.board = board
        self.digit = nn.Embedding(board + 1, dim)
        self.row, self.column, self.box = (nn.Embedding(board, dim) for _ in range(3))
        for table in (self.digit, self.row, self.column, self.box):
            nn.init.normal_(table.weight, std=dim**-0.5)

    def forward(self, puzzle: Tensor) -> Tensor:
        row, column, box = groups(self.board).to(puzzle.device)
        return self.digit(puzzle) + self.row(row) + self.column(column) + self.box(box)


def groups(board: int) -> Tensor:
    """Return the row, column and box of each cell, (3, C)."""
    return torch.from_numpy(units(board).reshape(3, -1).argsort(1) // board)


class Boards(Cells):
    """Puzzles and solutions (B, C): 0 where empty, digits elsewhere."""

    TABLE = "digits"

    @staticmethod
    def free(context: Tensor) -> Tensor:
        return context == 0

    @staticmethod
    def classes(answer: Tensor) -> Tensor:
        return answer - 1

    @staticmethod
    def fill(context: Tensor, classes: Tensor) -> Tensor:
        """Fill the empty cells of puzzles (B, C) with the digits of the predicted ``classes`` (digit - 1)."""
        return torch.where(context == 0, classes + 1, context)

    def prepared(self: Any, puzzle: Any) -> Tensor:
        """Convert puzzles to (B, C). A single one may be (C,), or text with 0 . _ or * at empty cells."""
        size = self.config.board
        given = as_tensor("puzzle", parse_board(puzzle, size) if isinstance(puzzle, str) else puzzle)
        digits, owner = given.long(), f"this model solves {size}x{size}"
        if wrong := given[(digits != given) | (digits < 0) | (digits > size)].tolist():
            raise InputError(f"puzzle has the digit {wrong[0]:.7g}: {owner}, give whole numbers from 0 (empty) to {size}")
        if not digits.numel() or digits.dim() == 0 or digits.shape[-1] != size**2:
            raise InputError(
                f"puzzle has shape {tuple(digits.shape)}: {owner}, give {size**2} cells per puzzle, and at least one puzzle"
            )
        return digits.reshape(-1, size**2).to(self.device)


fill = Boards.fill


def _pieces(config: EBTSudokuConfig | SudokuTransformerConfig) -> tuple[BoardEmbedding, int, Groups | None]:
    """Embedding, number of classes and relations."""
    relations = Groups(config.network(), groups(config.board)) if config.rules else None
    return BoardEmbedding(config.board, config.dim), config.board, relations


class EBTForSudoku(Boards, EBTForCells):
    """One simplex per empty cell. The energy of a board is the sum over its cells."""

    config_class = EBTSudokuConfig

    def __init__(self, config: EBTSudokuConfig) -> None:
        super().__init__(config, *_pieces(config))


class SudokuTransformer(Boards, CellsTransformer):
    """The same blocks without an energy, see ``ebt.models.cells.CellsTransformer``."""

    config_class = SudokuTransformerConfig

    def __init__(self, config: SudokuTransformerConfig) -> None:
        super().__init__(config, *_pieces(config))
