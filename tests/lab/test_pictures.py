from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from ebt.evaluation.curves import energy_curve, thinking_curve
from ebt.evaluation.style import COLOURS, RIGHT, WRONG
from ebt.problems.images.pictures import film_strip
from ebt.problems.language.metrics import MEASURE as language_measure
from ebt.problems.language.pictures import token_heat_map, visible
from ebt.problems.sudoku.metrics import MEASURE as sudoku_measure
from ebt.problems.sudoku.pictures import board_strip
from ebt.problems.video.pictures import frame_energy_map, save_gif, side_by_side_frames

Picture = npt.NDArray[np.float32]
STEPS = [1, 2, 4, 8]


def draw(function: Callable[..., None], folder: Path, *args: Any, **kwargs: Any) -> Picture:
    path = folder / "picture.png"
    function(*args, path, **kwargs)
    return imread(path)[..., :3]


def pixels(picture: Picture, colour: str) -> int:
    """Pixels of just this colour."""
    return int((np.abs(picture - np.array(to_rgb(colour))) < 0.01).all(-1).sum())


def curve(
    task: str = "sudoku", kind: str = "ebt", candidates: tuple[int, ...] = (1,), steps: list[int] = STEPS
) -> dict[str, Any]:
    points = [
        {
            "steps": s, "candidates": m, "energy": -float(s), "objective": -2.0 * s,
            "exact": s / 10, "exact_error": 0.02, "cell": 0.9,
            "nats": 2 + 1 / s - 0.05 * m, "nats_error": None, "accuracy": 0.5,
        }
        for s in steps
        for m in candidates
    ]  # fmt: skip
    measure = {"language": language_measure, "sudoku": sudoku_measure}[task]
    return {"task": task, "measure": asdict(measure), "kind": kind, "points": points, "start_energy": 0.5}


def board(wrong: bool = False, confidence: float = 1.0, size: int = 4) -> dict[str, Any]:
    solution = [(3 * (i // size) + i % size) % size + 1 for i in range(size * size)]
    digits = [digit % size + 1 if wrong and i == 1 else digit for i, digit in enumerate(solution)]
    return {
        "puzzle": [solution[0]] + [0] * (size * size - 1),
        "boards": [solution, digits],
        "confidence": [[confidence] * size * size] * 2,
        "energies": [1.0, -3.0],
        "solution": solution,
    }


def test_pictures_leave_matplotlib_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    draw(thinking_curve, tmp_path, {"EBT": curve()})
    draw(energy_curve, tmp_path, curve())
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == []


def test_every_model_and_number_of_candidates_has_its_line(tmp_path: Path) -> None:
    ebt, twin, loop = curve(candidates=(1, 4)), curve(kind="feed-forward", steps=[1]), curve(kind="looped")
    picture = draw(thinking_curve, tmp_path, {"EBT": ebt, "twin": twin, "loop": loop})
    assert picture.shape == (500, 800, 3)
    assert all(pixels(picture, colour) > 50 for colour in COLOURS[:4])
    assert not pixels(picture, COLOURS[4])
    alone = draw(thinking_curve, tmp_path, {"EBT": curve()})
    assert pixels(alone, COLOURS[0]) > 50 > pixels(alone, COLOURS[1])


def test_the_twin_is_a_level_across_the_picture(tmp_path: Path) -> None:
    picture = draw(thinking_curve, tmp_path, {"twin": curve(kind="feed-forward", steps=[1]), "EBT": curve()})
    rows = (np.abs(picture - np.array(to_rgb(COLOURS[0]))) < 0.01).all(-1).sum(1)
    assert rows.max() > 350


@pytest.mark.parametrize("measure", ["exact", "cell"])
def test_the_measure_can_be_chosen(measure: str, tmp_path: Path) -> None:
    default = draw(thinking_curve, tmp_path, {"EBT": curve()})
    assert np.array_equal(draw(thinking_curve, tmp_path, {"EBT": curve()}, measure=measure), default) == (measure == "exact")


def test_language_is_drawn_in_nats_without_errors(tmp_path: Path) -> None:
    assert pixels(draw(thinking_curve, tmp_path, {"EBT": curve("language", candidates=(1, 8))}), COLOURS[1]) > 50


def test_energy_and_what_updates_descend_are_drawn_from_the_start(tmp_path: Path) -> None:
    picture = draw(energy_curve, tmp_path, curve("language", steps=[1, 2, 4, 64]), title="Text")
    assert picture.shape == (600, 800, 3)
    assert min(pixels(picture, colour) for colour in COLOURS[:2]) > 50


def test_the_heat_map_grows_with_the_text(tmp_path: Path) -> None:
    def heat_map(tokens: list[str], steps: int = 3) -> Picture:
        energies = np.linspace(1, -1, (steps + 1) * len(tokens)).reshape(steps + 1, -1).tolist()
        return draw(token_heat_map, tmp_path, {"tokens": tokens, "energies": energies, "nats": [1.0] * len(tokens)})

    short, long = heat_map([" the", "$x", "\n", "\ufffd"]), heat_map(list("abcdefghi ") * 9)
    assert short.shape[1] == 800
    assert long.shape[0] > 2 * short.shape[0]
    assert long.shape[1] > short.shape[1]
    assert heat_map(["a", "b"], steps=20).shape[0] > heat_map(["a", "b"], steps=2).shape[0]
    for end in ("#440154", "#fde725"):  # the darkest and the lightest colour of the map
        assert pixels(short, end) > 100


def test_white_space_and_unprintable_characters_are_visible() -> None:
    assert [visible(token) for token in (" a", "\n", "\x00", "", "$")] == ["␣a", "↵", "□", "□", "$"]


def test_wrong_digits_have_another_colour_where_the_solution_is_known(tmp_path: Path) -> None:
    right, wrong = board(), board(wrong=True)
    assert pixels(draw(board_strip, tmp_path, right, solution=right["solution"]), WRONG) == 0
    shown = draw(board_strip, tmp_path, wrong, solution=wrong["solution"])
    assert pixels(shown, RIGHT) > pixels(shown, WRONG) > 20
    assert pixels(draw(board_strip, tmp_path, wrong), WRONG) == 0


def test_unsure_digits_are_pale(tmp_path: Path) -> None:
    assert pixels(draw(board_strip, tmp_path, board(confidence=0.4)), RIGHT) == 0


@pytest.mark.parametrize("size", [4, 6, 9])
def test_boards_of_every_size_and_number_of_steps(size: int, tmp_path: Path) -> None:
    result = board(size=size)
    result = {name: [cells[0]] * 9 if name in ("boards", "confidence", "energies") else cells for name, cells in result.items()}
    one, many = (draw(board_strip, tmp_path, result, steps=steps) for steps in ([8], [0, 1, 2, 4, 6]))
    assert many.shape[0] > 1.5 * one.shape[0]
    assert many.shape[1] > one.shape[1]


@pytest.mark.parametrize("shape", [(5, 16, 16), (5, 200, 120, 3)])
def test_films_have_the_truth_and_the_prediction_side_by_side(shape: tuple[int, ...], tmp_path: Path) -> None:
    true, found = np.full(shape, 40, dtype=np.uint8), np.full(shape, 90, dtype=np.uint8)
    pages = side_by_side_frames(true, found, 3)
    assert pages.shape[0] == 5
    height, width = pages.shape[1:3]
    assert height >= 160
    middle = pages[:, height // 2]
    assert (middle[:, width // 4] == 40).all()
    assert (middle[:, 3 * width // 4] == 90).all()
    edges = [tuple(page[height // 2, width // 2 + 8].tolist()) for page in pages]
    assert len(set(edges[:3])) == len(set(edges[3:])) == 1
    assert edges[0] != edges[3]
    save_gif(pages, tmp_path / "film.gif", 0.25)
    assert (tmp_path / "film.gif").stat().st_size > 500


def test_a_strip_has_a_column_for_each_frame(tmp_path: Path) -> None:
    frames = [np.full((8, 8), 255 * (i % 2), dtype=np.uint8) for i in range(6)]
    picture = draw(lambda path: film_strip({"true": frames, "predicted": frames}, list("abcdef"), path), tmp_path)
    assert picture.shape[1] == 820
    assert (picture[:25] < 0.3).any()  # the names
    black = (picture[picture.shape[0] // 4] < 0.1).all(-1)
    assert (np.diff(black.astype(int)) == 1).sum() >= 3


@pytest.mark.parametrize("with_frames", [False, True])
def test_unsure_frames_are_bright(with_frames: bool, tmp_path: Path) -> None:
    energies = [[99.0] * 8, [1.0] * 8, [0.0] * 5 + [3.0] * 3]
    frames = [np.zeros((4, 4), dtype=np.uint8)] * 8 if with_frames else []
    picture = draw(lambda path: frame_energy_map(energies, [0.1] * 8, path, frames, "title"), tmp_path)
    yellow, purple = pixels(picture, "#fde725"), pixels(picture, "#440154")
    assert yellow / purple == pytest.approx((8 + 3) / 5, rel=0.25)
    assert pixels(picture, COLOURS[1]) > 500
