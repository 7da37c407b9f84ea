"""Where candidates start when nothing is left to chance.

The start of a prediction is a pure function of (seed, position, candidate): position t starts alike whether it is computed
alone with a cache or together with its prefix, in any row, behind any padding, on any device; and M candidates are the first M
of any larger number.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ebt.thinking import Simplex


def starts(space: Simplex, std: float, positions: Tensor, candidates: int, seed: int) -> Tensor:
    """Starting states (M x B, S, K), candidate-major, of predictions at ``positions`` (B, S)."""
    distinct, where = positions.unique(return_inverse=True)
    generator = torch.Generator()
    rows = [
        torch.randn(space.width, generator=generator.manual_seed(_hash(seed, position, m)), dtype=torch.float32)
        for position in distinct.tolist()
        for m in range(candidates)
    ]
    table = space.table
    normal = torch.stack(rows).unflatten(0, (-1, candidates)).to(table.device, torch.promote_types(table.dtype, torch.float32))
    return space.spread(std) * normal[where].permute(2, 0, 1, 3).flatten(0, 1)


def _hash(seed: int, position: int, candidate: int) -> int:
    digest = hashlib.blake2b(f"{seed}:{position}:{candidate}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")
