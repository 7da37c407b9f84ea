"""Energy-Based Transformers: networks that predict by descending a learned energy (Gladstone et al., arXiv 2507.02092).

A model gives an energy to a (context, candidate prediction) pair; low is compatible. It predicts by *thinking*::

    y[i+1] = y[i] - alpha * dE(x, y[i])/dy + noise

More steps is thinking longer; several candidates, of which that of lowest energy is kept, is self-verification.

An energy of your own, 8 candidates of 4 predictions in R^2::

    out = ebt.descend(lambda y: energy(x, y), torch.randn(8, 4, 2), steps=16, step_size=0.1)
    out.best, out.energy, out.path          # (4, 2), (17, 4), (17, 8, 4, 2)

A trained model of any problem, from a folder or the Hugging Face hub::

    model = ebt.load("runs/demo/models/sudoku-ebt")
    thought = model.think(".5.3..1...26.4..6......2......5.6...", steps=16, candidates=8, seed=0)
    thought.answer, thought.energy          # of the winner; its energy before each step and at the end

Training in a PyTorch loop of your own::

    loss = ebt.loss(energy, target, recipe=ebt.Recipe.s1())
    loss.backward()

or by a configuration, and what thinking is worth::

    model = ebt.train("language/ebt", name="text")
    curve = ebt.evaluate("runs/text", steps=[1, 2, 4, 8])

Functions:
    load, think, train, evaluate: models, see ``help(ebt.load)`` and so on.
    descend, loss, choose, mean: energies of your own.

Values:
    Thinking: how a model thinks. Recipe: how it is trained. Thought: what thinking gave.

Pieces of a descent, each one class to add to:
    Geometry: Euclidean, Projected, Simplex, CompactSimplex, FreeVector.
    Update: Gradient, Mirror, Restart, Momentum, Published.
    Stop: Change, EnergyChange, Budget, Either.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ebt.front import evaluate, load, think, train
    from ebt.models.thinking import Thinking
    from ebt.thinking import (
        Budget,
        Change,
        CompactSimplex,
        Either,
        EnergyChange,
        Euclidean,
        FreeVector,
        Geometry,
        Gradient,
        Mirror,
        Momentum,
        Projected,
        Published,
        Recipe,
        Restart,
        Simplex,
        StepSize,
        Stop,
        Thought,
        Update,
        choose,
        descend,
        loss,
        mean,
    )
    from ebt.training.replay import ReplayBuffer

_HOMES = {
    **dict.fromkeys(("load", "think", "train", "evaluate"), "ebt.front"),
    "ReplayBuffer": "ebt.training.replay",
    "Thinking": "ebt.models.thinking",
}

__all__ = [
    "evaluate", "load", "think", "train",
    "Budget", "Change", "CompactSimplex", "Either", "EnergyChange", "Euclidean", "FreeVector", "Geometry", "Gradient", "Mirror",
    "Momentum", "Projected", "Published", "Recipe", "ReplayBuffer", "Restart", "Simplex", "StepSize", "Stop", "Thinking",
    "Thought", "Update", "choose", "descend", "loss", "mean",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Names of the front door, imported (and torch with them) when they are used."""
    if name not in __all__:
        raise AttributeError(f"module 'ebt' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "ebt.thinking")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
