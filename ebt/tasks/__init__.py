"""Tasks: a network, a candidate space, a loss and metrics, as Lightning modules."""

from ebt.tasks.base import Batch, Outcome, Sums, ThinkingTask
from ebt.tasks.denoising import DenoisingNetwork, DenoisingTask
from ebt.tasks.language import LanguageNetwork, LanguageTask
from ebt.tasks.models import ModelTask, Network
from ebt.tasks.optimisation import Optimisation
from ebt.tasks.samples import TextSamples
from ebt.tasks.sharding import Sharded
from ebt.tasks.sudoku import SudokuNetwork, SudokuTask
from ebt.tasks.video import VideoNetwork, VideoTask

__all__ = [
    "Batch",
    "DenoisingNetwork",
    "DenoisingTask",
    "LanguageNetwork",
    "LanguageTask",
    "ModelTask",
    "Network",
    "Optimisation",
    "Sharded",
    "Outcome",
    "SudokuNetwork",
    "SudokuTask",
    "Sums",
    "TextSamples",
    "ThinkingTask",
    "VideoNetwork",
    "VideoTask",
]
