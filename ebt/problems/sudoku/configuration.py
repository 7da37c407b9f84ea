"""Configurations of models of boards."""

from __future__ import annotations

from typing import Any

from ebt.errors import InputError
from ebt.models.cells import CellsConfig, CellsTwinConfig

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by board size."""


class EBTSudokuConfig(CellsConfig):
    """Bidirectional EBT over the cells of a ``board`` x ``board`` Sudoku.

    Args:
        board: Size of the board, 4, 6 or 9.
        space: See ``ThinkingFields``.
        rules: Whether attention knows which cells share a row, a column or a box (see ``ebt.nn.blocks.Groups``).
        latent: Whether each cell carries a latent vector through the descent (``ebt.nn.encoder.LatentLandscape``). Needs space
            restart and head bilinear.
        **kwargs: See ``ThinkingFields``.
    """

    model_type = "ebt_sudoku"

    def __init__(
        self, board: int = 6, space: str = "restart", rules: bool = False, latent: bool = False, **kwargs: Any
    ) -> None:
        _check_board(board)
        self.board, self.rules = board, rules
        super().__init__(space, latent, **kwargs)


class SudokuTransformerConfig(CellsTwinConfig):
    """Baselines of ``EBTSudokuConfig`` without an energy. For ``loop`` and ``inner`` see ``CellsTwinConfig``."""

    model_type = "ebt_sudoku_transformer"

    def __init__(self, board: int = 6, loop: str = "none", inner: int = 6, rules: bool = False, **kwargs: Any) -> None:
        _check_board(board)
        self.board, self.rules = board, rules
        super().__init__(loop, inner, **kwargs)


def _check_board(board: int) -> None:
    if board not in BOXES:
        raise InputError(f"board is {board}: choose one of {', '.join(map(str, BOXES))}")
