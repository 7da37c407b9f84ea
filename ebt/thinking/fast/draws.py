"""Random draws that do not depend on batching, grouping or caching."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from ebt.thinking.noise import Source, draw_normal, precise


def _seed(*keys: int) -> int:
    digest = hashlib.blake2b(":".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def draw_integer(low: int, high: int, generator: torch.Generator | None) -> int:
    """Draw an integer from ``low`` (inclusive) to ``high`` (exclusive)."""
    return int(torch.randint(low, high, (), generator=generator, device="cpu" if generator is None else generator.device))


@dataclass(frozen=True)
class Rows:
    """Noise in training: a pure function of (seed, step, row), so rows can be computed in groups of any size."""

    seed: int
    first: int = 0
    """Index of the first row."""

    def of(self, rows: slice) -> Rows:
        """Draws for the rows from ``rows.start`` on."""
        return Rows(self.seed, self.first + rows.start)

    def at(self, step: int) -> Source:
        """Noise before one step."""

        def draw(like: Tensor) -> Tensor:
            generator = torch.Generator(like.device)
            rows = range(self.first, self.first + len(like))
            drawn = [draw_normal(like.shape[1:], like, generator.manual_seed(_seed(self.seed, step, row))) for row in rows]
            return torch.stack(drawn)

        return draw


@dataclass(frozen=True, eq=False)
class Places:
    """Draws at inference: a pure function of (seed, step, candidate, position).

    They do not depend on the row, on padding, on the device, or on whether a position is computed with its prefix or with a
    cache. M candidates are the first M of any larger number. Rows are candidate-major.
    """

    seed: int
    candidates: int
    positions: Tensor | None = None
    """Positions (B, *P). Default: the parts of each row are numbered from 0."""

    def at(self, step: int) -> Source:
        """Draws before one step. Step -1 gives the starts."""

        def draw(like: Tensor) -> Tensor:
            rows, parts = len(like) // self.candidates, like.shape[1:-1].numel()
            where = (
                torch.arange(parts).expand(rows, -1) if self.positions is None else self.positions.reshape(rows, parts).cpu()
            )
            distinct, index = where.unique(return_inverse=True)
            generator = torch.Generator()
            keys = product(range(self.candidates), distinct.tolist())
            drawn = [torch.randn(like.shape[-1], generator=generator.manual_seed(_seed(self.seed, step, *key))) for key in keys]
            table = torch.stack(drawn).unflatten(0, (self.candidates, -1)).to(like.device, precise(like).dtype)
            return table[:, index.to(like.device)].view(like.shape)

        return draw

    def of(self, rows: slice) -> Places:
        """Draws for some rows, with one candidate each."""
        return Places(self.seed, self.candidates, None if self.positions is None else self.positions[rows])
