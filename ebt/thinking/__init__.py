"""The method of the paper: descent, geometries, updates, stops, self-verification and training recipes. Imports only torch."""

from ebt.thinking.descent import Energy, Gradients, LandscapeError, NonFiniteError, descend, judge, revisit, slope
from ebt.thinking.fast.compact import CompactSimplex
from ebt.thinking.fast.draws import Places, Rows
from ebt.thinking.geometry import IGNORED, Euclidean, FreeVector, Geometry, Projected, Simplex
from ebt.thinking.latent import LatentSimplex
from ebt.thinking.noise import draw_normal
from ebt.thinking.ranking import ranking_loss
from ebt.thinking.recipe import Recipe, StepSize, Supervised, loss, mean_loss, supervise
from ebt.thinking.stop import Budget, Change, Either, EnergyChange, Step, Stop
from ebt.thinking.thought import Evaluations, Rule, Thought, choose, mean
from ebt.thinking.update import Gradient, Mirror, Momentum, Published, Restart, Update

__all__ = [
    "Energy", "Gradients", "LandscapeError", "NonFiniteError", "descend", "judge", "revisit", "slope",
    "CompactSimplex", "Euclidean", "FreeVector", "Geometry", "IGNORED", "LatentSimplex", "Projected", "Simplex",
    "Gradient", "Mirror", "Momentum", "Published", "Restart", "Update",
    "Budget", "Change", "Either", "EnergyChange", "Step", "Stop",
    "Evaluations", "Rule", "Thought", "choose", "mean",
    "Recipe", "StepSize", "Supervised", "loss", "mean_loss", "ranking_loss", "supervise",
    "Places", "Rows", "draw_normal",
]  # fmt: skip
