"""Draw a moving picture of a Sudoku model that thinks: ``python examples/thinking_gif.py sudoku-6x6 out.gif``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import ebt
from ebt.problems.sudoku.metrics import BoardThinking, watch_board

PUZZLE = ".5.3..1...26.4..6......2......5.6..."
STEPS = (0, *range(1, 9), 10, 12, 16, 20, 24, 32)
"""Steps of one descent that are shown."""
CELL = 44
"""Pixels."""
WHITE, BLUE, INK = (255, 255, 255), (26, 111, 181), (20, 20, 20)


def faded(confidence: float) -> tuple[int, ...]:
    """Blue where the model is sure of a digit, pale where it is not."""
    return tuple(round(white + (blue - white) * (0.25 + 0.75 * confidence)) for white, blue in zip(WHITE, BLUE, strict=True))


def frame(thought: BoardThinking, step: int) -> Image.Image:
    """The board after a step: givens in black, the model's digits in blue, and a bar for the energy."""
    lowest, highest = min(thought.energies), max(thought.energies)
    energy, side = thought.energies[step], 6 * CELL
    image = Image.new("RGB", (side + 16, side + 60), WHITE)
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), f"step {step}", fill=INK, font=ImageFont.load_default(16))
    draw.text((side + 8, 6), f"energy {energy:.1f}", fill=INK, font=ImageFont.load_default(16), anchor="ra")
    draw.rectangle((8, 32, 8 + side * (energy - lowest) / (highest - lowest or 1), 38), fill=BLUE)
    for index, digit in enumerate(thought.boards[step]):
        x, y = 8 + index % 6 * CELL, 50 + index // 6 * CELL
        colour = INK if PUZZLE[index] != "." else faded(thought.confidence[step][index])
        draw.text((x + CELL / 2, y + CELL / 2), str(digit), fill=colour, font=ImageFont.load_default(24), anchor="mm")
    for line in range(7):
        at = line * CELL
        draw.line((8 + at, 50, 8 + at, 50 + side), fill=INK, width=3 if line % 3 == 0 else 1)
        draw.line((8, 50 + at, 8 + side, 50 + at), fill=INK, width=3 if line % 2 == 0 else 1)
    return image


def main(model: str, out: Path) -> None:
    puzzle = torch.tensor([int(cell) if cell.isdigit() else 0 for cell in PUZZLE])
    thought = watch_board(ebt.load(model), puzzle, steps=STEPS[-1], candidates=8, seed=0)
    frames = [frame(thought, step) for step in STEPS]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=[500] * (len(frames) - 1) + [2500], loop=0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
