"""Videos that a model was not trained on, encoded as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ebt.errors import InputError
from ebt.problems.runs import run_data
from ebt.problems.video.data import VideoDataModule, held_out_frames
from ebt.problems.video.moving_digits import DIGITS

SPLITS = ("validation", "test", "shifted")


@dataclass(frozen=True)
class HeldOutVideo:
    """Encoded clips of one set."""

    data: VideoDataModule
    set: str
    name: str
    """For titles."""
    note: str = ""
    """What the user should know about it."""

    def frames(self, length: int, count: int) -> Tensor:
        """Up to ``count`` stretches (n, length, E)."""
        return held_out_frames(self.data, self.set, length, count)


def held_out_video(checkpoint: str, model: Any, source: str | None, split: str, length: int) -> HeldOutVideo:
    """The run's own videos, or those of a source that have ``length`` frames, encoded as the model's are.

    Raises:
        InputError: no source or encoder is known, or the encoder's frames are not those of the model.
    """
    settings = run_data(checkpoint, VideoDataModule) if source is None else {}
    if settings is None:
        raise InputError(
            f"{checkpoint} does not belong to a run folder, which would know its videos: name them with --data ({DIGITS} for "
            "moving digits)."
        )
    if source is None:
        data = VideoDataModule(**{**settings, "num_workers": 0})
        found = HeldOutVideo(data, _set(data, split), f"{split} videos of {data.sources['train']}")
    else:
        data = VideoDataModule(source, **_encoding(checkpoint, model), context_length=length - 1, fractions=(1.0, 0.0, 0.0))
        note = "" if data.digits else f"All of {source} is used: held-out quality only if the model was not trained on it."
        chosen = _set(data, split)
        found = HeldOutVideo(data, chosen if data.digits else "train", Path(source).name, note)
    if data.frame_dim != model.config.frame_dim:
        raise InputError(
            f"{checkpoint} predicts frames of {model.config.frame_dim} numbers, and {data.encoder_name} of {data.size} pixels "
            f"has {data.frame_dim}: use the encoder and size that the model was trained with."
        )
    return found


def _set(data: VideoDataModule, split: str) -> str:
    if split == "shifted" and not data.digits:
        raise InputError("--split shifted is the harder test of moving digits: choose validation or test.")
    return DIGITS if data.digits and split == "test" else split


def _encoding(checkpoint: str, model: Any) -> dict[str, Any]:
    encoding = model.config.encoding
    if encoding is None:
        raise InputError(
            f'{checkpoint} does not tell how its frames were encoded: add "encoding" to its config.json, such as '
            '{"encoder": FOLDER, "size": 224, "channels": 3, "seconds": 0.25}.'
        )
    return dict(encoding)
