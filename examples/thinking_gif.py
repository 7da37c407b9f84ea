"""Draw a moving picture of a Sudoku model that thinks: ``python examples/thinking_gif.py MODEL out.gif``."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import ebt

PUZZLE = ".5.3..1...26.4..6......2......5.6..."
STEPS = (*range(1, 9), 10, 12, 16, 20, 24, 32)
CELL = 40
"""Pixels."""


def frame(board: list[int], step: int, energy: float) -> Image.Image:
    """One board: givens in black, the model's digits in blue."""
    image = Image.new("RGB", (6 * CELL + 16, 6 * CELL + 44), "white")
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), f"step {step}, energy {energy:.1f}", fill="black", font=ImageFont.load_default(16))
    for index, digit in enumerate(board):
        x, y = 8 + index % 6 * CELL, 32 + index // 6 * CELL
        colour = "black" if PUZZLE[index] != "." else "#1a6fb5"
        draw.text((x + CELL / 2, y + CELL / 2), str(digit), fill=colour, font=ImageFont.load_default(22), anchor="mm")
    for line in range(7):
        at = line * CELL
        draw.line((8 + at, 32, 8 + at, 32 + 6 * CELL), fill="black", width=3 if line % 3 == 0 else 1)
        draw.line((8, 32 + at, 8 + 6 * CELL, 32 + at), fill="black", width=3 if line % 2 == 0 else 1)
    return image


def main(model: str, out: Path) -> None:
    solver = ebt.load(model)
    thoughts = {step: solver.think(PUZZLE, steps=step, seed=0) for step in STEPS}
    frames = [frame(t.answer.flatten().tolist(), step, float(t.energy[-1].sum())) for step, t in thoughts.items()]
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=[400] * (len(frames) - 1) + [2500], loop=0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
