"""The engine: candidate spaces, the descent, gradients through it, verification, replay. Imports torch only."""

from ebt.thinking.alarms import ThinkingWarning, alarms
from ebt.thinking.descent import Descent, Gradients, Landscape, NonFiniteError, slope, think
from ebt.thinking.recipe import Recipe, Supervised, mean_loss, supervise
from ebt.thinking.record import Evaluations, Thought
from ebt.thinking.replay import ReplayBuffer
from ebt.thinking.spaces import (
    IGNORED,
    SIMPLEX_SPACES,
    CandidateSpace,
    CompactMirror,
    CompactRestart,
    Euclidean,
    FreeVector,
    ListingSimplex,
    MirrorSimplex,
    Projected,
    ReferenceSimplex,
    RestartProjected,
    RestartSimplex,
    Simplex,
)
from ebt.thinking.step_size import StepSize
from ebt.thinking.verification import Rule, WordRule, choose, mean

__all__ = [
    "IGNORED",
    "SIMPLEX_SPACES",
    "CandidateSpace",
    "CompactMirror",
    "CompactRestart",
    "Descent",
    "Euclidean",
    "Evaluations",
    "FreeVector",
    "Gradients",
    "Landscape",
    "ListingSimplex",
    "MirrorSimplex",
    "NonFiniteError",
    "Projected",
    "Recipe",
    "ReferenceSimplex",
    "ReplayBuffer",
    "RestartProjected",
    "RestartSimplex",
    "Rule",
    "Simplex",
    "StepSize",
    "Supervised",
    "ThinkingWarning",
    "Thought",
    "WordRule",
    "alarms",
    "choose",
    "mean",
    "mean_loss",
    "slope",
    "supervise",
    "think",
]
