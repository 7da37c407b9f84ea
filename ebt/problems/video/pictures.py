"""Pictures of predicted videos: animations next to the truth, and the energy of each frame across thinking steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageOps

from ebt.evaluation.style import COLOURS, HEAT, picture
from ebt.problems.images.pictures import show

LEAST = 160
"""Minimum size of an animated frame, in pixels. Smaller ones are enlarged by a whole number."""
EDGE, HEAD = 6, 18
"""Pixels of the border around a frame, and of the line above it."""
GIVEN, PREDICTED = (170, 170, 170), (213, 94, 0)
"""Colours of the border."""


def side_by_side_frames(true: np.ndarray, found: np.ndarray, given: int) -> np.ndarray:
    """Make the frames (T, H, W, 3) of an animation: on the left the truth, on the right the given and the predicted frames.

    Args:
        true: (T, h, w) or (T, h, w, 3), 8 bits.
        found: Likewise.
        given: Number of given frames.
    """
    return np.stack([_page(*pair, index - given + 1) for index, pair in enumerate(zip(true, found, strict=True))])


def _page(true: np.ndarray, found: np.ndarray, ahead: int) -> np.ndarray:
    """Draw the frame of an animation that shows the ``ahead``-th predicted frame, or a given one."""
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
    """Write frames (T, H, W, 3) as an animated GIF, each shown for ``seconds``. It repeats endlessly."""
    pages = [Image.fromarray(frame) for frame in frames]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=round(1000 * seconds), loop=0)


def frame_energy_map(
    energies: Sequence[Sequence[float]],
    losses: Sequence[float],
    path: str | Path,
    frames: Sequence[np.ndarray] = (),
    title: str = "",
) -> None:
    """Draw the energies of frames at the start and after each step, above their losses (paper, figure 11). Frames are bright
    where the model is unsure. The colours span the energies after the first step: random starts lie above.

    Args:
        energies: (T + 1, S), of the frames from the second on.
        losses: (S,), after the last step.
        path: PNG file to write.
        frames: True frames, shown above, if any.
        title: Title above the picture.
    """
    count, ratios = len(losses), [0.5] * bool(len(frames)) + [1.6, 1.0]
    with picture(path, width=min(24.0, 0.6 * count + 3.0), height=1.3 * sum(ratios) + 0.9, colours=None) as figure:
        *above, heat, bars = figure.subplots(len(ratios), 1, height_ratios=ratios, sharex=True)
        for axes in above:
            for i, frame in enumerate(frames, 2):
                show(axes, frame, aspect="auto", extent=(i - 0.46, i + 0.46, 0, 1))
        extent = (1.5, count + 1.5, -0.5, len(energies) - 0.5)
        colours = {"cmap": HEAT, "vmin": np.min(energies[1:]), "vmax": np.max(energies[1:])}
        shown = heat.imshow(np.array(energies), aspect="auto", origin="lower", extent=extent, **colours)
        for axis in (heat.yaxis, bars.xaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        heat.set_ylabel("step")
        heat.grid(visible=False)
        bars.bar(range(2, count + 2), losses, color=COLOURS[1])
        bars.set_xlim(1.5, count + 1.5)
        bars.set_ylabel("loss")
        bars.set_xlabel("frame")
        figure.colorbar(shown, ax=[*above, heat, bars], label="energy", pad=0.01, aspect=30, extend="both")
        if title:
            figure.suptitle(title)
