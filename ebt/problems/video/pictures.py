"""Pictures of predicted videos: beside the truth, moving; and the energy of each frame while a model thinks about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from ebt.evaluation.style import COLOURS, HEAT, picture
from ebt.problems.images.pictures import show

LEAST = 160
"""Pixels of a moving frame: smaller ones are enlarged by a whole number."""
EDGE, HEAD = 6, 18
"""Pixels of the edge around a frame, and of the line above it."""
GIVEN, PREDICTED = (170, 170, 170), (213, 94, 0)
"""Colours of the edge."""


def side_by_side_frames(true: np.ndarray, found: np.ndarray, given: int) -> np.ndarray:
    """Frames (T, H, W, 3) of a film: the truth on the left, on the right the given frames and then the predicted ones.

    Args:
        true: (T, h, w) or (T, h, w, 3), 8 bits.
        found: likewise.
        given: so many of the frames were given.
    """
    return np.stack([_page(*pair, index - given + 1) for index, pair in enumerate(zip(true, found, strict=True))])


def _page(true: np.ndarray, found: np.ndarray, ahead: int) -> np.ndarray:
    """The frame of a film that shows the ``ahead``-th predicted frame, or a given one."""
    factor = max(1, -(-LEAST // max(true.shape[:2])))
    named = [(true, "true", GIVEN), (found, f"predicted, frame {ahead}", PREDICTED) if ahead > 0 else (found, "given", GIVEN)]
    height, width = (factor * length + 2 * EDGE for length in true.shape[:2])
    page = Image.new("RGB", (2 * width + 2 * EDGE, height + HEAD + EDGE), "white")
    for x, (frame, name, colour) in zip((EDGE, width + 2 * EDGE), named, strict=True):
        large = ImageOps.scale(Image.fromarray(frame).convert("RGB"), factor, Image.Resampling.NEAREST)
        page.paste(ImageOps.expand(large, EDGE, colour), (x, HEAD))
        ImageDraw.Draw(page).text((x, EDGE // 2), name, fill="black")
    return np.array(page)


def save_gif(frames: np.ndarray, path: str | Path, seconds: float) -> None:
    """An animated GIF of frames (T, H, W, 3), each shown for so many seconds; it begins anew in the end."""
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=round(1000 * seconds), loop=0)


def frame_energy_map(
    energies: Sequence[Sequence[float]],
    losses: Sequence[float],
    path: str | Path,
    frames: Sequence[np.ndarray] = (),
    title: str = "",
) -> None:
    """The energy of each frame at the start and after each step, bright where the model is unsure; below it the loss (paper,
    figure 11). Colours are those of the energies after the first step: random starts lie above them.

    Args:
        energies: (T + 1, S), of the frames from the second on.
        losses: (S,), after the last step.
        path: the PNG to write.
        frames: the true frames, which are shown above, if there are any.
        title: above the picture.
    """
    count, ratios = len(losses), [0.5] * bool(len(frames)) + [1.6, 1.0]
    with picture(path, width=min(24.0, 0.6 * count + 3.0), height=1.3 * sum(ratios) + 0.9) as figure:
        *above, heat, bars = figure.subplots(len(ratios), 1, height_ratios=ratios, sharex=True)
        for axes in above:
            for i, frame in enumerate(frames, 2):
                show(axes, frame, aspect="auto", extent=(i - 0.46, i + 0.46, 0, 1))
        extent = (1.5, count + 1.5, -0.5, len(energies) - 0.5)
        colours = {"cmap": HEAT, "vmin": np.min(energies[1:]), "vmax": np.max(energies[1:])}
        shown = heat.imshow(np.array(energies), aspect="auto", origin="lower", extent=extent, **colours)
        heat.set_yticks(range(len(energies)))
        heat.set_ylabel("step")
        heat.grid(visible=False)
        bars.bar(range(2, count + 2), losses, color=COLOURS[1])
        bars.set_xlim(1.5, count + 1.5)
        bars.set_ylabel("loss")
        bars.set_xlabel("frame")
        figure.colorbar(shown, ax=[*above, heat, bars], label="energy", pad=0.01, aspect=30, extend="both")
        if title:
            figure.suptitle(title)
