"""Models that mark paths in mazes: the bidirectional EBT, its feed-forward twin, and looped transformers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ebt.checks import as_tensor
from ebt.errors import InputError
from ebt.models.cells import Cells, CellsTransformer, EBTForCells
from ebt.nn.blocks import Neighbours
from ebt.problems.mazes.configuration import EBTMazesConfig, MazeTransformerConfig
from ebt.problems.mazes.grids import LARGEST, OPEN, SIGNS, WALL, check_mazes, parse_maze


class Mazes(Cells):
    """Mazes (B, C), row by row, and paths (B, C): 1 on the path, 0 elsewhere. Walls, start and goal are given."""

    TABLE = "marks"

    @staticmethod
    def free(context: Tensor) -> Tensor:
        return context == OPEN

    @staticmethod
    def classes(answer: Tensor) -> Tensor:
        return answer

    @staticmethod
    def fill(context: Tensor, classes: Tensor) -> Tensor:
        """Return paths: the predicted ``classes`` of open squares, 1 at start and goal, 0 at walls."""
        return torch.where(context == OPEN, classes, (context != WALL).to(classes.dtype))

    def prepared(self: Any, context: Any) -> Tensor:
        """Convert mazes to (B, C). A single one may be (n, n), or text (``ebt.problems.mazes.grids.parse_maze``)."""
        squares = as_tensor("maze", parse_maze(context) if isinstance(context, str) else context)
        if squares.dim() == 2 and len(squares) == squares.shape[1] <= LARGEST:  # rows of several mazes are longer
            squares = squares.unsqueeze(0)
        size = math.isqrt(squares.shape[-1]) if squares.dim() in (1, 2) else 0
        if not squares.numel() or (squares.dim() != 3 and not (size and size**2 == squares.shape[-1])):
            shapes = "(n, n), (B, n, n) or (B, n * n), and at least one"
            raise InputError(f"maze has shape {tuple(squares.shape)}: give mazes of shape {shapes}")
        squares = squares.reshape(-1, size, size) if size else squares
        return torch.from_numpy(check_mazes(squares.cpu().numpy())).long().flatten(1).to(self.device)


def _pieces(config: EBTMazesConfig | MazeTransformerConfig) -> tuple[nn.Module, int, Neighbours]:
    """Embedding, number of classes and relations."""
    embedding = nn.Embedding(len(SIGNS), config.dim)
    nn.init.normal_(embedding.weight, std=config.dim**-0.5)
    return embedding, 2, Neighbours(config.network())


class EBTForMazes(Mazes, EBTForCells):
    """One simplex per open square, on the path or not. The energy of a path is the sum over the squares of its maze."""

    config_class = EBTMazesConfig

    def __init__(self, config: EBTMazesConfig) -> None:
        super().__init__(config, *_pieces(config))


class MazeTransformer(Mazes, CellsTransformer):
    """The same blocks without an energy, see ``ebt.models.cells.CellsTransformer``."""

    config_class = MazeTransformerConfig

    def __init__(self, config: MazeTransformerConfig) -> None:
        super().__init__(config, *_pieces(config))
