"""Replay buffer: final states of earlier descents from which new ones start (paper, section 3.2)."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

Record = dict[str, Tensor]


class ReplayBuffer:
    """First-in, first-out buffer of records (context, target, final state), one per row, on the CPU.

    In a compact space, a state has D numbers per part, independent of the vocabulary size.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"replay capacity is {capacity}: it must be at least 1")
        self._records: deque[Record] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, records: Record) -> None:
        """Add each row of tensors (B, ...). The oldest records are dropped beyond the capacity."""
        rows = {key: value.detach().cpu() for key, value in records.items()}
        for i in range(len(next(iter(rows.values())))):
            self._records.append({key: value[i].clone() for key, value in rows.items()})

    def sample(self, count: int, generator: torch.Generator | None = None) -> Record | None:
        """Sample up to ``count`` records without replacement, stacked to (n, ...); None if the buffer is empty."""
        count = min(count, len(self._records))
        if count < 1:
            return None
        chosen = torch.randperm(len(self._records), generator=generator)[:count].tolist()
        return {key: torch.stack([self._records[i][key] for i in chosen]) for key in self._records[0]}

    def state_dict(self) -> dict[str, Any]:
        return {"capacity": self._records.maxlen, "records": list(self._records)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._records = deque(state["records"], maxlen=state["capacity"])
