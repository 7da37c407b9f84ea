"""The video problem as seen by the commands, and held-out videos, encoded as for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ebt.errors import InputError
from ebt.evaluation.results import Curve, Progress
from ebt.models.base import batch
from ebt.problems.registry import HeldOut, Problem, Request, late, run_data, same
from ebt.problems.video.data import VideoDataModule, held_out_frames
from ebt.problems.video.metrics import MEASURE, VideoPoint, repeat_loss, video_curve
from ebt.problems.video.models import EBTForVideo, VideoTransformer
from ebt.problems.video.moving_digits import DIGITS


class Video(Problem):
    """Prediction of the next frame."""

    name = "video"
    models = (EBTForVideo, VideoTransformer)
    task = late("ebt.problems.video.task:VideoTask")
    data = late("ebt.problems.video.data:VideoDataModule")
    measure = MEASURE
    columns = ("smooth L1", "energy ~ loss")
    options = ("candidates", "rule", "tolerance", "shifted")

    def cells(self, point: VideoPoint) -> list[str]:
        error = "" if point.loss_error is None else f" ±{point.loss_error:.4f}"
        return [f"{point.loss:.4f}{error}", "-" if point.spearman is None else f"{point.spearman:.2f}"]

    def told(self, point: VideoPoint) -> str:
        return f"smooth L1 {point.loss:.4f}"

    def held_out(self, request: Request) -> HeldOut:
        """Up to ``limit`` clips (64 by default)."""
        configs = [model.config for model in request.models.values()]
        same("the encoder of frames", [(config.frame_dim, str(config.encoding)) for config in configs])
        length = min(config.context_length for config in configs) + 1
        found = held_out_video(request.checkpoint, request.model, request.data, request.split, length)
        frames = found.frames(length, request.limit or 64)
        note = f"repeating the last frame: {repeat_loss(frames).mean().item():.4f}. {found.note}".strip()
        return HeldOut(found.name, len(frames), frames, note)

    def given(self, model: Any, data: Any) -> Tensor:
        """Frames (B, S + 1, E)."""
        return batch(data, "frames", None, model.config.frame_dim)

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[VideoPoint]:
        return video_curve(model, held_out.data, steps, candidates, progress=bar, **options)


PROBLEM = Video()


@dataclass(frozen=True)
class HeldOutVideo:
    """Encoded clips of one set."""

    data: VideoDataModule
    set: str
    name: str
    """Name for titles."""
    note: str = ""
    """Note for the user."""

    def frames(self, length: int, count: int) -> Tensor:
        """Return up to ``count`` windows (n, length, E)."""
        return held_out_frames(self.data, self.set, length, count)


def held_out_video(checkpoint: str, model: Any, source: str | None, split: str, length: int) -> HeldOutVideo:
    """Return the run's own videos, or those of a source with ``length`` frames or more, encoded as for the model.

    Raises:
        InputError: If the source or encoder is unknown, or the width of encoded frames is not the model's.
    """
    if source is None:
        if (settings := run_data(checkpoint, VideoDataModule)) is None:
            remedy = f"give them with --data ({DIGITS} for moving digits)."
            raise InputError(f"{checkpoint} is not part of a run folder, so its videos are unknown: {remedy}")
        data = VideoDataModule(**{**settings, "num_workers": 0})
        found = HeldOutVideo(data, _set(data, split), f"{split} videos of {data.sources['train']}")
    else:
        if (encoding := model.config.encoding) is None:
            remedy = 'add "encoding" to its config.json: {"encoder": FOLDER, "size": 224, "channels": 3, "seconds": 0.25}.'
            raise InputError(f"the encoding of the frames of {checkpoint} is unknown: {remedy}")
        data = VideoDataModule(source, **encoding, context_length=length - 1, fractions=(1.0, 0.0, 0.0))
        note = "" if data.digits else f"All of {source} is used: held-out quality only if the model was not trained on it."
        chosen = _set(data, split)
        found = HeldOutVideo(data, chosen if data.digits else "train", Path(source).name, note)
    if data.frame_dim != model.config.frame_dim:
        has = f"{data.encoder_name} of {data.size} pixels has {data.frame_dim}: use the encoder of the training."
        raise InputError(f"{checkpoint} predicts frames of {model.config.frame_dim} numbers, and {has}")
    return found


def _set(data: VideoDataModule, split: str) -> str:
    if split == "shifted" and not data.digits:
        raise InputError("--split shifted is the harder test of moving digits: choose validation or test.")
    return DIGITS if data.digits and split == "test" else split
