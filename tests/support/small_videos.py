"""Tiny video models with random weights, encoders and videos, for the tests of data, evaluation and commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from small_models import SIZES, scramble

from ebt.problems.folder import save_folder
from ebt.problems.video.clips import write_video
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.problems.video.models import EBTForVideo, VideoTransformer

CONTEXT = 4
DIGITS: dict[str, Any] = {"encoder": "pixels", "size": 10, "channels": 1, "seconds": 0.25}
COLOUR: dict[str, Any] = {"encoder": "patches", "size": 8, "channels": 3, "seconds": 0.25}


def frame_dim(encoding: dict[str, Any]) -> int:
    width: int = encoding["channels"] * encoding["size"] ** 2
    return width


def video_ebt(encoding: dict[str, Any] | None = DIGITS, **config: Any) -> EBTForVideo:
    own = {"encoding": encoding, "frame_dim": frame_dim(encoding or DIGITS), "context_length": CONTEXT}
    return scramble(EBTForVideo(EBTVideoConfig(**{**SIZES, **own, "step_size": 0.01, "steps": 2, "start_std": 0.5, **config})))


def video_twin(encoding: dict[str, Any] | None = DIGITS) -> VideoTransformer:
    own = {"encoding": encoding, "frame_dim": frame_dim(encoding or DIGITS), "context_length": CONTEXT}
    return scramble(VideoTransformer(VideoTransformerConfig(**SIZES, **own)))


def video_folder(folder: Path, twin: bool = False, encoding: dict[str, Any] | None = DIGITS) -> str:
    """A saved model of frames."""
    return str(save_folder(video_twin(encoding) if twin else video_ebt(encoding), folder))


def ramp(frames: int, height: int = 24, width: int = 32, first: int = 0) -> np.ndarray:
    """Frames (T, H, W, 3) that become lighter, each of one grey: 20, 30, 40, ..."""
    greys = 20 + 10 * (first + np.arange(frames)) % 220
    return np.broadcast_to(greys[:, None, None, None], (frames, height, width, 3)).astype(np.uint8)


def clip_folder(folder: Path, count: int = 5, frames: int = 8, suffix: str = ".mp4", first: int = 0) -> str:
    """A folder of videos, a frame every quarter of a second; the first one begins with the grey ``first``."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_video(ramp(frames, first=first + i), folder / f"{i}{suffix}", 0.25)
    return str(folder)


def autoencoder(folder: Path) -> str:
    """A tiny ``AutoencoderKL`` in the format of ``diffusers``: frames of 8 x 8 pixels become 3 x 4 x 4 numbers."""
    import torch
    from diffusers import AutoencoderKL

    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [4, 8],
        "norm_num_groups": 2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoencoderKL(**blocks, latent_channels=3, scaling_factor=0.5, shift_factor=0.1).save_pretrained(folder)
    return str(folder)


def dinov2(folder: Path) -> str:
    """A tiny DINOv2 in the format of ``transformers``, of patches of 4 x 4 pixels and 12 numbers."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Dinov2Model(config).save_pretrained(folder)
    return str(folder)
