"""Your own network, task and data in R^d: reconstruct a curve from three of its coefficients, step by step.

    python examples/own_task.py
    cd examples && ebt fit --model own_task.Curves --data own_task.Waves --name curves --trainer.max_steps 400

Only the classes below are specific to the task. ThinkingTask provides training, logging and alarms. ResumableData can resume
in the middle of an epoch.
"""

from __future__ import annotations

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ebt.thinking import Energy, Euclidean, Geometry, Recipe, StepSize, descend
from ebt.training.optimisation import Optimisation
from ebt.training.sampling import ResumableData, ResumableLoader
from ebt.training.task import ThinkingTask

POINTS = 16


class CurveEnergy(nn.Module):
    """E(x, y) for coefficients x (B, 3) and candidate curves y (N, POINTS), with N a multiple of B; one energy per curve."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3 + POINTS, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.head = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.head.weight)  # flat at first: no step moves a curve

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        energies: Tensor = self.head(self.inner(torch.cat((x.repeat(len(y) // len(x), 1), y), -1)))
        return energies.squeeze(-1)


class Curves(ThinkingTask):
    """Predict curves from coefficients; a batch is dict(x=(B, 3), y=(B, POINTS))."""

    def __init__(self, seed: int = 0) -> None:
        recipe = Recipe(min_steps=2, max_steps=4, loss="last")
        super().__init__(recipe, Optimisation(lr=5e-3, warmup_steps=20, weight_decay=0.0), (1, 2, 4, 8), seed=seed)
        self.energy, self.alpha = CurveEnergy(), StepSize(1.0)

    def landscape(self, batch: dict[str, Tensor]) -> Energy:
        return lambda candidate: self.energy(batch["x"], candidate)

    def geometry(self) -> Geometry:
        return Euclidean(prediction_dims=1, shape=(POINTS,))

    def target(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["y"]

    def parts(self, batch: dict[str, Tensor]) -> tuple[int, ...]:
        return (len(batch["x"]),)


class Pairs(Dataset[dict[str, Tensor]]):
    """Sums of three waves: the amplitudes are the context, the curve is the target."""

    def __init__(self, count: int, seed: int) -> None:
        self.x = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
        place = torch.linspace(0, 2 * torch.pi, POINTS)
        self.y = self.x @ torch.stack([torch.sin(k * place) for k in (1, 2, 3)])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "y": self.y[index]}


class Waves(ResumableData):
    """Pairs to train on, and other pairs to validate on."""

    def __init__(self, count: int = 4096, batch_size: int = 64, seed: int = 0) -> None:
        super().__init__()
        self.count, self.batch_size, self.seed = count, batch_size, seed

    def prepare(self) -> None:
        self.pairs = {name: Pairs(self.count, seed) for name, seed in (("train", 1), ("validation", 2))}

    def train_dataloader(self) -> ResumableLoader:
        return self.training_loader(self.pairs["train"])

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self.evaluation_loader(self.pairs["validation"])


def main(updates: int = 400) -> dict[int, float]:
    """Train, then think for several numbers of steps; return the root mean square error after each."""
    L.seed_everything(0)
    task = Curves()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(max_steps=updates, max_epochs=-1, accelerator="cpu", **quiet)
    trainer.fit(task, datamodule=Waves())

    test, geometry = Pairs(512, seed=3), task.geometry()
    start, alpha = geometry.start((512,), source=torch.Generator().manual_seed(3)), task.alpha().detach()
    thought = descend(task.landscape({"x": test.x}), start, steps=8, step_size=alpha, geometry=geometry)
    errors = {step: (thought.states[step - 1] - test.y).square().mean().sqrt().item() for step in (1, 2, 3, 4, 8)}
    for step, error in errors.items():
        print(f"{step} steps: error {error:.3f}, energy {thought.energies[step].mean():.4f}")
    return errors


if __name__ == "__main__":
    main()
