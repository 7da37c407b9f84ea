"""The moving picture of the documentation is drawn by a script from a model."""

from __future__ import annotations

import runpy
from pathlib import Path

from PIL import Image
from small_models import sudoku_folder

EXAMPLE = Path(__file__).parents[2] / "examples/thinking_gif.py"


def test_it_has_a_frame_for_each_number_of_steps(tmp_path: Path) -> None:
    sudoku_folder(tmp_path / "model", board=6)
    example = runpy.run_path(str(EXAMPLE))
    example["main"](str(tmp_path / "model"), tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as picture:
        assert picture.n_frames == len(example["STEPS"])
