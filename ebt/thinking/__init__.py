"""The paper: one descent; where candidates live, how they move, when they stop, who wins, recipes. Imports torch only."""

from ebt.thinking.descent import Energy, Gradients, NonFiniteError, descend, slope
from ebt.thinking.fast.compact import CompactSimplex
from ebt.thinking.geometry import IGNORED, Euclidean, FreeVector, Geometry, Projected, Simplex
from ebt.thinking.noise import Places, Rows, draw_normal
from ebt.thinking.recipe import Recipe, Supervised, loss, mean_loss, supervise
from ebt.thinking.step_size import StepSize
from ebt.thinking.stop import Budget, Change, Either, EnergyChange, Step, Stop
from ebt.thinking.thinking import SPACES, STOPS, UPDATES, VECTOR_SPACES, Thinking, named, think
from ebt.thinking.thought import Evaluations, Thought
from ebt.thinking.update import Gradient, Mirror, Momentum, Published, Restart, Update
from ebt.thinking.verify import Rule, choose, mean

__all__ = [
    "Budget",
    "Change",
    "CompactSimplex",
    "Either",
    "Energy",
    "EnergyChange",
    "Euclidean",
    "Evaluations",
    "FreeVector",
    "Geometry",
    "Gradient",
    "Gradients",
    "IGNORED",
    "Mirror",
    "Momentum",
    "NonFiniteError",
    "Places",
    "Projected",
    "Published",
    "Recipe",
    "Restart",
    "Rows",
    "Rule",
    "SPACES",
    "STOPS",
    "Simplex",
    "Step",
    "StepSize",
    "Stop",
    "Supervised",
    "Thinking",
    "Thought",
    "UPDATES",
    "Update",
    "VECTOR_SPACES",
    "choose",
    "descend",
    "draw_normal",
    "loss",
    "mean",
    "mean_loss",
    "named",
    "slope",
    "supervise",
    "think",
]
