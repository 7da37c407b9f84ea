"""Random graphs with a planted colouring, some nodes of which are given."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ebt.training.sampling import ResumableData, ResumableLoader


def graphs(count: int, nodes: int, colours: int, seed: int) -> tuple[Tensor, Tensor]:
    """Graphs (count, N, N + 1) and their colours (count, N): edges join nodes of different colours only."""
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(1, colours + 1, (count, nodes), generator=generator)
    drawn = torch.rand(count, nodes, nodes, generator=generator).triu(1) > 0.1
    edges = (drawn | drawn.mT) & (colour[:, :, None] != colour[:, None, :])
    given = colour * (torch.rand(count, nodes, generator=generator) < 0.5)
    return torch.cat((edges.float(), given.float().unsqueeze(-1)), -1), colour


class GraphData(ResumableData):
    """Batches of ``graph`` (B, N, N + 1) and ``colour`` (B, N)."""

    def __init__(self, nodes: int = 8, colours: int = 3, count: int = 256, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.nodes, self.colours, self.count, self.batch_size, self.seed = nodes, colours, count, batch_size, seed

    def prepare(self) -> None:
        self.sets = {
            name: _Pairs(*graphs(self.count, self.nodes, self.colours, i)) for i, name in enumerate(("train", "validation"))
        }

    def train_dataloader(self) -> ResumableLoader:
        return self.training_loader(self.sets["train"])

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.evaluation_loader(self.sets["validation"])


class _Pairs(TensorDataset):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        graph, colour = super().__getitem__(index)
        return {"graph": graph, "colour": colour}
