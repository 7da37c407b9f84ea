"""Does the energy know where the prediction is wrong?"""

from __future__ import annotations

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
