"""Models that complete boards: the bidirectional EBT, its feed-forward twin, and looped transformers."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ebt.errors import InputError
from ebt.models.base import HubModel, Prediction, ThinkingModel
from ebt.models.thinking import Thinking
from ebt.nn import EBTEncoder, EncoderLandscape, Transformer
from ebt.problems.sudoku.boards import parse_board
from ebt.problems.sudoku.configuration import EBTSudokuConfig, SudokuTransformerConfig
from ebt.problems.sudoku.generator import units
from ebt.thinking import Geometry, StepSize, Thought


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


class EBTForSudoku(ThinkingModel):
    """One simplex per empty cell. The energy of a board is the sum over its cells."""

    config_class = EBTSudokuConfig
    _keep_in_fp32_modules_strict: ClassVar = [*ThinkingModel._keep_in_fp32_modules_strict, "latent_ratio"]

    def __init__(self, config: EBTSudokuConfig) -> None:
        super().__init__(config)
        self.embedding = BoardEmbedding(config.board, config.dim)
        self.digits = nn.Embedding(config.board, config.dim)
        if config.head_init == "unit":  # as small as the twin's head: the end of a warm start then does not disturb the blocks
            nn.init.normal_(self.digits.weight, std=config.dim**-0.5)
        related = groups(config.board) if config.rules else None
        self.network = EBTEncoder(config.network(), config.energy_scale, related, config.latent)
        self.step_size = StepSize(config.step_size, config.learn_step_size)
        if config.latent:
            self.latent_ratio = StepSize(1.0, config.learn_step_size)
        self.post_init()

    def landscape(self, puzzle: Tensor) -> EncoderLandscape:
        """Return the energy of completions of puzzles (B, C), 0 where empty."""
        return self.network.encode(self.embedding(puzzle), free=puzzle == 0)

    def geometry(self) -> Geometry:
        """One part per cell, one prediction per board."""
        latent = {"ratio": self.latent_ratio()} if self.config.latent else {}
        return self.config.make_geometry(1, self.digits.weight, self.config.input_gradient, **latent)

    def prepared(self, puzzle: Any) -> Tensor:
        """Convert puzzles to (B, C). A single one may be (C,), or text with 0 . _ or * at empty cells."""
        size = self.config.board
        digits = torch.as_tensor(parse_board(puzzle, size) if isinstance(puzzle, str) else puzzle).long().to(self.device)
        if digits.shape[-1] != size**2 or not bool(((digits >= 0) & (digits <= size)).all()):
            shape = tuple(digits.shape)
            raise InputError(f"puzzle has shape {shape}: this model solves {size}x{size}, give {size**2} cells per puzzle")
        return digits.reshape(-1, size**2)

    def parts(self, puzzle: Tensor) -> tuple[int, ...]:
        return tuple(puzzle.shape)

    def answer(self, puzzle: Tensor, thought: Thought, how: Thinking) -> Tensor:
        """Return completed boards (B, C): the givens, and the winner's digits elsewhere."""
        return fill(puzzle, thought.geometry.decide(thought.state))

    def forward(self, puzzle: Tensor, **options: Any) -> Prediction:
        """Complete puzzles (B, C), 0 where empty. For the options see ``think``."""
        thought = self.think(puzzle, **options)
        return Prediction(thought.answer, thought.energy, thought.steps)


class SudokuTransformer(HubModel):
    """The same blocks without an energy: one pass, or a loop with tied weights that feeds back its prediction or state.

    ``recursive`` follows the tiny recursive model (Jolicoeur-Martineau 2025). An answer y and a latent state z are carried from
    iteration to iteration as constants. Each iteration updates ``z = f(x + y + z)`` ``inner`` times, then ``y = f(y + z)``.
    """

    config_class = SudokuTransformerConfig

    def __init__(self, config: SudokuTransformerConfig) -> None:
        super().__init__(config)
        self.embedding = BoardEmbedding(config.board, config.dim)
        self.digits = nn.Embedding(config.board, config.dim) if config.loop == "prediction" else None
        self.network = Transformer(config.network(), groups(config.board) if config.rules else None)
        self.head = nn.Linear(config.dim, config.board, bias=False)
        nn.init.normal_(self.head.weight, std=config.dim**-0.5)
        self.post_init()

    @property
    def passes(self) -> int:
        """Number of forward passes of the blocks per iteration."""
        return self.config.inner + 1 if self.config.loop == "recursive" else 1

    def predict(self, puzzle: Tensor, iterations: int = 1) -> Tensor:
        """Return completed boards (B, C) after the last iteration."""
        return fill(puzzle, self(puzzle, iterations)[-1].argmax(-1))

    def forward(self, puzzle: Tensor, iterations: int = 1) -> list[Tensor]:
        """Return the logits (B, C, V) after each iteration. Without a loop there is only one."""
        given = self.embedding(puzzle)
        if self.config.loop == "recursive":
            return self._recurse(given, iterations)
        free = (puzzle == 0).unsqueeze(-1)
        carried, logits = torch.zeros_like(given), []
        for _ in range(iterations if self.config.loop != "none" else 1):
            hidden = self.network(given + carried)
            logits.append(self.head(hidden))
            carried = hidden if self.digits is None else free * (logits[-1].softmax(-1) @ self.digits.weight)
        return logits

    def _recurse(self, given: Tensor, iterations: int) -> list[Tensor]:
        answer, latent, logits = torch.zeros_like(given), torch.zeros_like(given), []
        for _ in range(iterations):
            answer, latent = answer.detach(), latent.detach()
            for _ in range(self.config.inner):
                latent = self.network(given + answer + latent)
            answer = self.network(answer + latent)
            logits.append(self.head(answer))
        return logits


def fill(puzzle: Tensor, words: Tensor) -> Tensor:
    """Fill the empty cells of puzzles (B, C) with the predicted classes ``words`` (digit - 1)."""
    return torch.where(puzzle == 0, words + 1, puzzle)
