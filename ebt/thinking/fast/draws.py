"""Draws that depend neither on how predictions are batched, nor on how they are grouped or cached."""

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
    """A number from ``low`` up to, and without, ``high``."""
    return int(torch.randint(low, high, (), generator=generator, device="cpu" if generator is None else generator.device))


@dataclass(frozen=True)
class Rows:
    """Noise of training: a pure function of (seed, step, row), so that rows may be computed in groups of any size."""

    seed: int
    first: int = 0
    """The first row that is drawn for."""

    def of(self, rows: slice) -> Rows:
        """The draws of the rows from ``rows.start`` on."""
        return Rows(self.seed, self.first + rows.start)

    def at(self, step: int) -> Source:
        """The noise before one step."""

        def draw(like: Tensor) -> Tensor:
            generator = torch.Generator(like.device)
            rows = range(self.first, self.first + len(like))
            drawn = [draw_normal(like.shape[1:], like, generator.manual_seed(_seed(self.seed, step, row))) for row in rows]
            return torch.stack(drawn)

        return draw


@dataclass(frozen=True, eq=False)
class Places:
    """Draws of inference: a pure function of (seed, step, candidate, position).

    A position draws alike whether it is computed alone with a cache or together with its prefix, in any row, behind any
    padding, on any device; M candidates are the first M of any larger number. A row is a candidate of a context,
    candidate-major.
    """

    seed: int
    candidates: int
    positions: Tensor | None = None
    """(B, S), or (B, *P) flattened behind the rows; by default each row counts its parts from 0."""

    def at(self, step: int) -> Source:
        """The draws before one step; the starts are those before step -1."""

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
        """Of one candidate each, the draws of some rows."""
        return Places(self.seed, self.candidates, None if self.positions is None else self.positions[rows])
