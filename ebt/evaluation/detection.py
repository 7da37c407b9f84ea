"""Does the energy know where the prediction is wrong?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def auroc(energy: Tensor, wrong: Tensor) -> float | None:
    """Area under the receiver operating characteristic: the chance that a wrong prediction has more energy than a right one.

    Args:
        energy: energies of predictions, any shape.
        wrong: True where the prediction is wrong, same shape.

    Returns:
        0.5 if the energy tells nothing, 1 if it tells all; None where all predictions are right, or all wrong.
    """
    from torchmetrics.functional.classification import binary_auroc  # takes seconds to import, which few callers need

    wrong = wrong.flatten().long()
    if not 0 < int(wrong.sum()) < wrong.numel():
        return None
    _, rank = energy.flatten().double().unique(return_inverse=True)  # scores outside [0, 1] would be squashed, which makes ties
    return binary_auroc(rank.double() / rank.max().clamp(min=1), wrong).item()


@dataclass(frozen=True)
class RiskCoverage:
    """How often predictions are wrong if only the surest are kept."""

    coverage: list[float]
    """Shares of the predictions that are kept."""
    risk: list[float]
    """Share of those that is wrong."""
    area: float
    """Mean risk over all coverages (AURC): lower is better."""


def risk_coverage(score: Tensor, wrong: Tensor, points: int = 50) -> RiskCoverage:
    """Risk against coverage when predictions of low score are kept first; those of equal score are kept alike.

    Args:
        score: of predictions, any shape; high where the prediction should be doubted.
        wrong: True where the prediction is wrong, same shape.
        points: of the curve.
    """
    score, wrong = score.flatten().double(), wrong.flatten().double()
    _, rank, counts = score.unique(return_inverse=True, return_counts=True)
    shared = torch.zeros(len(counts), dtype=torch.double).index_add_(0, rank, wrong) / counts
    risks = shared[rank[score.argsort()]].cumsum(0) / torch.arange(1, len(score) + 1)
    kept = torch.linspace(1 / points, 1, points).mul(len(score)).round().long().clamp(1)
    return RiskCoverage((kept / len(score)).tolist(), risks[kept - 1].tolist(), risks.mean().item())
