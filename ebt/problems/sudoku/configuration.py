"""Configurations of models of boards."""

from __future__ import annotations

from typing import Any

from ebt.errors import InputError
from ebt.models.configuration import TWINS, NetworkFields, ThinkingFields
from ebt.thinking import Geometry, LatentSimplex

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by board size."""


class EBTSudokuConfig(ThinkingFields):
    """Bidirectional EBT over the cells of a ``board`` x ``board`` Sudoku.

    Args:
        board: Size of the board, 4, 6 or 9.
        space: See ``ThinkingFields``.
        rules: Whether attention knows which cells share a row, a column or a box (see ``ebt.nn.blocks.Relations``).
        latent: Whether each cell carries a latent vector through the descent (``ebt.nn.encoder.LatentLandscape``). Needs space
            restart and head bilinear.
        **kwargs: See ``ThinkingFields``.
    """

    model_type = "ebt_sudoku"
    unused = ("anchor", "scale_inputs", "rope_theta", "mean_from")

    def __init__(
        self, board: int = 6, space: str = "restart", rules: bool = False, latent: bool = False, **kwargs: Any
    ) -> None:
        _check_board(board)
        self.board, self.rules, self.latent = board, rules, latent
        super().__init__(space=space, **kwargs)
        needed = {"space": "restart", "head": "bilinear", "input_gradient": True}
        for name, value in needed.items():
            if latent and getattr(self, name) != value:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, but latent vectors need {value!r}: change {name} or latent"
                )

    def make_geometry(self, *args: Any, **kwargs: Any) -> Geometry:
        return LatentSimplex(*args, **kwargs) if self.latent else super().make_geometry(*args, **kwargs)


class SudokuTransformerConfig(NetworkFields):
    """Baselines of ``EBTSudokuConfig`` without an energy. ``loop``: none (feed-forward), prediction (fed back), hidden (the
    state is carried) or recursive (an answer and a latent state in turns, with ``inner`` updates of the state per update of
    the answer)."""

    model_type = "ebt_sudoku_transformer"
    unused = (*TWINS, "rope_theta")

    def __init__(self, board: int = 6, loop: str = "none", inner: int = 6, rules: bool = False, **kwargs: Any) -> None:
        if loop not in ("none", "prediction", "hidden", "recursive"):
            raise InputError(f"loop is {loop!r}: choose one of none, prediction, hidden, recursive")
        if loop != "recursive":
            self.refuse({"inner": inner}, {"inner": 6}, ("inner",))
        _check_board(board)
        self.board, self.loop, self.inner, self.rules = board, loop, inner, rules
        super().__init__(**kwargs)


def _check_board(board: int) -> None:
    if board not in BOXES:
        raise InputError(f"board is {board}: choose one of {', '.join(map(str, BOXES))}")
