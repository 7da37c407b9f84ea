"""Video, as commands see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebt.evaluation.results import Curve, Progress
from ebt.problems.registry import HeldOut, Problem, Request, same
from ebt.problems.video.data import VideoDataModule
from ebt.problems.video.held_out import held_out_video
from ebt.problems.video.metrics import MEASURE, VideoPoint, repeat_loss, video_curve
from ebt.problems.video.models import EBTForVideo, VideoTransformer
from ebt.problems.video.task import VideoTask


class Video(Problem):
    """The next frame."""

    name = "video"
    models = (EBTForVideo, VideoTransformer)
    task, data, measure = VideoTask, VideoDataModule, MEASURE
    columns = ("smooth L1", "energy ~ loss")
    options = ("candidates", "rule", "tolerance", "shifted")

    def cells(self, point: VideoPoint) -> list[str]:
        error = "" if point.loss_error is None else f" ±{point.loss_error:.4f}"
        return [f"{point.loss:.4f}{error}", "-" if point.spearman is None else f"{point.spearman:.2f}"]

    def told(self, point: VideoPoint) -> str:
        return f"smooth L1 {point.loss:.4f}"

    def held_out(self, request: Request) -> HeldOut:
        """Up to ``limit`` clips (64)."""
        configs = [model.config for model in request.models.values()]
        same("the encoder of frames", [(config.frame_dim, str(config.encoding)) for config in configs])
        length = min(config.context_length for config in configs) + 1
        found = held_out_video(request.checkpoint, request.model, request.data, request.split, length)
        frames = found.frames(length, request.limit or 64)
        note = f"repeating the last frame: {repeat_loss(frames).mean().item():.4f}. {found.note}".strip()
        return HeldOut(found.name, len(frames), frames, note)

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[VideoPoint]:
        options.setdefault("batch_size", 32)
        return video_curve(model, held_out.data, steps, candidates, progress=bar, **options)


PROBLEM = Video()
