"""Energy-Based Transformers: networks that predict by descending a learned energy (Gladstone et al., arXiv 2507.02092).

A model assigns an energy to a context and a candidate prediction. The lower the energy, the better they fit. The model predicts
by *thinking*, which is gradient descent on the candidate::

    y[i+1] = y[i] - alpha * dE(x, y[i])/dy + noise

Taking more steps is called thinking longer. Keeping the candidate of lowest energy out of several is called self-verification.

Descend your own energy, with 8 candidates for each of 4 predictions in R^2::

    out = ebt.descend(lambda y: energy(x, y), torch.randn(8, 4, 2), steps=16, step_size=0.1)
    out.best, out.energy, out.path          # (4, 2), (17, 4), (17, 8, 4, 2)

Load a model (a bundled one, a folder, or one of the Hugging Face Hub), and think::

    model = ebt.load("sudoku-6x6")
    thought = model.think(".5.3..1...26.4..6......2......5.6...", steps=16, candidates=8, seed=0)
    thought.answer, thought.energy          # the winner's answer, and its energy before each step and at the end

Train in your own PyTorch loop::

    loss = ebt.loss(energy, target, recipe=ebt.Recipe.s1())
    loss.backward()

Train from a configuration, and measure quality against the number of steps::

    model = ebt.train("language/ebt", name="text")
    curve = ebt.evaluate("runs/text", steps=[1, 2, 4, 8])

Functions:
    load, think, train, evaluate: For models. See ``help(ebt.load)`` and so on.
    descend, loss, choose, mean: For your own energies.

Settings and results:
    Recipe: How a model is trained. StepSize: A learnable step size. ReplayBuffer: Final states to start from again.
    Thinking: How a model thinks after training. Thought: The result of thinking.

Components of a descent (each is one class, and you can add your own):
    Geometry, where candidates live: Euclidean, Projected, Simplex, CompactSimplex, FreeVector.
    Update, how they move: Gradient, Mirror, Restart, Momentum, Published.
    Stop, when they stop: Change, EnergyChange, Budget, Either.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ebt.errors import naming_extras

DISTRIBUTION = "energy-based-transformers"
"""Name under which the library is installed."""

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

    __version__: str

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
    """Import public names, and torch with them, on first use. The version is that of the installed distribution."""
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module 'ebt' has no attribute {name!r}")
    with naming_extras("train" if name == "train" else None):
        return getattr(importlib.import_module(_HOMES.get(name, "ebt.thinking")), name)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:  # a source tree on the path of Python
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
