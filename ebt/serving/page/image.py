"""The tab *Image*: a photo that clears up, or whose painted parts are filled in."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from ebt.errors import InputError
from ebt.problems.images.diffusion import NoiseSchedule
from ebt.problems.images.metrics import psnr
from ebt.problems.images.models import by_tiles
from ebt.problems.images.sources import PHOTOS, open_images, to_array, to_picture, to_tensor
from ebt.serving.page import drawing
from ebt.serving.page.models import Shown
from ebt.serving.page.parts import PLAIN, SLIDES, Status, at, drawn, kept, note, runs

SIDE = 256
"""Largest width and height. Larger photos are reduced."""
NOISE, FILL = "Remove noise", "Fill in what I paint over"
SECONDS = 0.15
"""Time between two steps."""


@dataclass
class Record:
    """An image after each step, and its energies."""

    frames: npt.NDArray[np.uint8]
    """(T + 1, H, W, C)."""
    energies: npt.NDArray[np.float32]
    """(T + 1, H, W) energy per patch, at its pixels, averaged where tiles overlap."""
    told: str


def read(picture: Image.Image, channels: int) -> Tensor:
    """A picture as a tensor (C, H, W) of at most ``SIDE`` pixels per side."""
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return to_tensor(to_array(picture, "the photo", channels))


@torch.no_grad()
def clear(model: Any, image: Tensor, free: Tensor | None, level: float, steps: int, seed: int) -> Record:
    """Add noise to an image (C, H, W) and remove it, or empty it at ``free`` (1, H, W) and fill it in."""
    generator, size = torch.Generator().manual_seed(seed), model.config.image_size
    if free is None:
        start, mask = NoiseSchedule.linear().noisy(image[None], level, seed)[0], torch.ones_like(image[:1], dtype=torch.bool)
    else:
        start, mask = model.emptied(image[None], free[None], generator)[0], free
    channels = image.shape[0]

    def think(tiles: Tensor) -> Tensor:
        pixels, open_ = tiles[:, :-1].to(model.device), tiles[:, -1:].bool().to(model.device)
        given = {} if free is None else {"free": open_}
        thought = model.think(pixels, steps=steps, candidates=1, **given)
        states = torch.where(open_, thought.path, pixels).clamp(-1, 1).transpose(0, 1)
        side = size // model.config.patch_size
        energies = F.interpolate(thought.energies.unflatten(-1, (side, side)).transpose(0, 1), size=(size, size))
        return torch.cat((states.flatten(1, 2), energies), 1).cpu()

    found = by_tiles(think, torch.cat((start, mask.to(start))), size)
    frames, energies = found[: -(steps + 1)].unflatten(0, (steps + 1, channels)), found[-(steps + 1) :]
    told = f"{steps} steps"
    if free is None:
        before, after = (psnr(frames[i][None], image[None]).item() for i in (0, -1))
        told += f": {before:.1f} dB before, {after:.1f} dB after (PSNR)"
    pixels = np.stack([np.array(to_picture(frame).convert("RGB")) for frame in frames])
    return Record(pixels, energies.float().numpy(), told)


def draw(record: Record, step: int) -> tuple[str, str]:
    """The image beside the map of its energies, and the curve of the mean energy, at a step."""
    step = min(step, len(record.frames) - 1)
    low, high = (float(value) for value in np.quantile(record.energies[1:], (0.02, 0.98)))
    line = record.energies.mean((1, 2), dtype=np.float64).tolist()
    curve = drawing.curve([line], 0, step, "Mean energy of a patch")
    photo = drawing.picture(Image.fromarray(record.frames[step]), f"Photo after step {step}", f"step-{step}.png")
    heat = drawing.picture(drawing.heat(record.energies[step], low, high), "Energy of the patches (yellow: high)")
    return f'<div class="ebt-boards">{photo}{heat}</div>', curve


def painted(value: dict[str, Any] | None) -> tuple[Image.Image, Image.Image | None]:
    """The photo of the editor, and what is painted over it: white where there is paint.

    Raises:
        InputError: If there is no photo.
    """
    photo = (value or {}).get("background")
    if photo is None or min(photo.size) < 8:
        raise InputError("There is no photo: drop one of at least 8 x 8 pixels, or press Example photo.")
    paint = Image.new("L", photo.size, 0)
    for layer in (value or {}).get("layers") or []:
        paint.paste(255, mask=layer.convert("RGBA").getchannel("A").resize(photo.size).point(lambda a: 255 * (a > 0)))
    return photo, paint if paint.getbbox() else None


def tab(shown: Shown) -> None:
    """Build the tab."""
    if not shown.images:
        drawn(note(shown.missing.get("photos", "No model of images is served: give one with --checkpoint.")))
        return
    first = next(iter(shown.images))
    photos = open_images(PHOTOS)["test"]
    record, turn = kept(), gr.State(0)
    with gr.Row():
        with gr.Column(min_width=280):
            name = gr.Radio(list(shown.images), value=first, label="Model", visible=len(shown.images) > 1)
            task = gr.Radio([NOISE, FILL], value=NOISE, label="Task",
                            info="Drop or paste a photo of your own. The brush paints what is filled in.")  # fmt: skip
            brush = gr.Brush(default_size=18, colors=["#ff00d4"], default_color="#ff00d4", color_mode="fixed")
            photo = gr.ImageEditor(
                _example(photos, 0), type="pil", label="Photo", brush=brush,
                image_mode="RGBA", sources=["upload", "clipboard"], layers=False, transforms=(), canvas_size=(SIDE, SIDE),
                height=380, format="png", buttons=[],
            )  # fmt: skip
            other = gr.Button("Example photo")
            level = gr.Slider(
                0.02,
                0.3,
                0.1,
                step=0.01,
                label="Noise level",
                info="Share of the noise schedule. The photos model is trained for 0.1.",
            )
            with gr.Accordion("How it thinks", open=False):
                steps = gr.Slider(1, 16, shown.images[first].thinking.steps, step=1, label="Steps")
                seed = gr.Number(0, precision=0, minimum=0, maximum=2**31, label="Seed of the noise")
            with gr.Row():
                go, halt = gr.Button("Think", variant="primary"), gr.Button("Stop")
        with gr.Column(min_width=280, scale=2):
            status = Status("Press *Think*, and watch the photo clear up.")
            step = at("Step", shown.images[first].thinking.steps)
            pictures = drawn()
            curve = drawn()
    out = [record, status.html, step, pictures, curve]

    def run(name: str, task: str, value: Any, level: float, steps: int, seed: int) -> Generator[Any]:
        model = shown.images[name]
        picture, paint = painted(value)
        if task == FILL and paint is None:
            raise InputError("Nothing is painted: paint over a part of the photo with the brush.")
        yield None, status.says("Thinking ..."), *[gr.skip()] * 3
        tensor = read(picture, model.config.num_channels)
        free = None
        if task == FILL and paint is not None:
            small = paint.resize((tensor.shape[2], tensor.shape[1]), Image.Resampling.BOX)
            free = torch.from_numpy(np.array(small) > 0)[None]
        found = clear(model, tensor, free, float(level), int(steps), int(seed))
        for now in range(int(steps) + 1):
            told = found.told if now == steps else f"Step {now} of {int(steps)} ..."
            yield found, status.says(told), gr.Slider(maximum=int(steps), value=now, interactive=True), *draw(found, now)
            time.sleep(SECONDS)

    runs(go, halt, run, [name, task, photo, level, steps, seed], out, status)
    step.input(lambda found, now: draw(found, now) if found else [gr.skip()] * 2, [record, step], [pictures, curve], **SLIDES)
    other.click(lambda i: (_example(photos, i + 1), i + 1), turn, [photo, turn], **PLAIN)


def _example(photos: Any, index: int) -> dict[str, Any]:
    picture = photos.picture(index % len(photos)).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return {"background": picture, "layers": [], "composite": picture}
