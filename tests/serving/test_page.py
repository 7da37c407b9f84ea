"""The page's functions: what the tabs show equals what the models think."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import language_ebt, language_twin

import ebt
from ebt.errors import InputError
from ebt.problems.language.tokenizers import byte_tokenizer, encode

pytest.importorskip("gradio")

import gradio as gr
from PIL import Image

from ebt.serving import page
from ebt.serving.engine import Engine, Served
from ebt.serving.page import drawing, image, landscape, sudoku, text
from ebt.serving.page.parts import VISITORS, Status, Turns, runs
from ebt.serving.protocol import Limits
from ebt.shelf import shelf

PUZZLE = ".5.3..1...26.4..6......2......5.6..."


@pytest.fixture(scope="module")
def shown() -> Any:
    found, missing = page.come_along(("sudoku-6x6", "sudoku-6x6-twin", "photos", "nothing-of-this-name"))
    engine = Engine(
        {"tiny": Served(language_ebt(), byte_tokenizer()), "twin": Served(language_twin(), byte_tokenizer())}, Limits()
    )
    yield page.Shown.sorted(engine, found, missing)
    engine.close()


def test_models_are_sorted_by_what_they_are(shown: Any) -> None:
    assert (list(shown.boards), list(shown.images), list(shown.text)) == (["sudoku-6x6"], ["photos"], ["tiny"])
    assert shown.twins[6][0] == "sudoku-6x6-twin"
    assert "nothing-of-this-name" in shown.missing["nothing-of-this-name"]
    with pytest.raises(InputError, match="moving has the model type 'ebt_video', which cannot be served"):
        page.Shown.sorted(shown.engine, {"moving": ebt.load("digits")})


def test_the_record_of_a_board_is_what_the_model_thinks(shown: Any) -> None:
    record = sudoku.think(shown, "sudoku-6x6", PUZZLE, 12, 3, 5)
    model = shown.boards["sudoku-6x6"]
    thought = model.think(PUZZLE, steps=12, candidates=3, seed=5)
    assert record.digits.shape == (13, 3, 36)
    assert record.winner == int(thought.winner)
    assert record.digits[-1, record.winner].tolist() == thought.answer[0].tolist()
    assert np.allclose(record.energies[:, record.winner].sum(-1), thought.energy[:, 0].numpy(), rtol=1e-5)
    large, curve, small = sudoku.draw(record, 12)
    assert "step 12, energy" in large
    assert small.count("<table") == 3
    assert small.count('class="winner"') == 1
    assert curve.count("<polyline") == 3
    assert sudoku.draw(record, 99) == sudoku.draw(record, 12)
    assert sudoku.draw(record, 0) != sudoku.draw(record, 12)
    assert "sudoku-6x6-twin, the same network without thinking" in record.twin


def test_a_full_board_needs_no_thought(shown: Any) -> None:
    record = sudoku.think(shown, "sudoku-6x6", "".join(map(str, _solution())), 2, 1, 0)
    assert "solved" in sudoku.draw(record, 2)[0]


def _solution() -> list[int]:
    from ebt.problems.sudoku.generator import solutions

    return list(solutions(np.array([int(c) if c != "." else 0 for c in PUZZLE], dtype=np.int8), 6, 1)[0])


@pytest.mark.parametrize("puzzle", ["", "12", "x" * 36, "1" * 36, "." * 81])
def test_what_is_no_puzzle_is_refused(shown: Any, puzzle: str) -> None:
    with pytest.raises(InputError, match="The puzzle"):
        sudoku.think(shown, "sudoku-6x6", puzzle, 2, 1, 0)


def test_text_is_that_of_generate_and_each_token_is_thought_alike(shown: Any) -> None:
    options = {"steps": 3, "candidates": 2, "rule": "lowest"}
    *_, record = text.write(shown, "tiny", "some", 6, 0.0, options)
    served = shown.text["tiny"]
    ids = torch.tensor(encode(served.tokenizer, ["some"]))
    made = served.model.generate(ids, max_new_tokens=6, do_sample=False, **options)
    assert record.ids == made[0].tolist()[: len(record.ids)]
    assert len(record.words) == len(record.energies) == len(record.ids) - ids.shape[1] > 0
    for index in range(len(record.words)):
        thought = served.model.think(torch.tensor([record.ids[: record.prompt + index]]), predictions=1, **options)
        assert int(thought.answer) == record.ids[record.prompt + index]
        assert float(thought.energy[-1]) == pytest.approx(record.energies[index])
        table, curve = text.look(shown, record, index)
        assert table.count("<tr>") == 1 + 4
        assert f"<b>{escape(drawing.visible(record.words[index]))}</b>" in table
        assert curve.count("<polyline") == 2


def test_closing_the_text_cancels_it(shown: Any) -> None:
    running = text.write(shown, "tiny", "some", 500, 1.0, {"steps": 1})
    next(running)
    running.close()
    *_, after = text.write(shown, "tiny", "some", 2, 0.0, {"steps": 1})
    assert len(after.words) <= 2


@pytest.mark.parametrize("prompt", ["", "x" * 1000])
def test_prompts_that_do_not_fit_are_refused(shown: Any, prompt: str) -> None:
    with pytest.raises(InputError, match=r"give 1 to \d+"):
        next(text.write(shown, "tiny", prompt, 2, 0.0, {}))


def test_a_photo_clears_up_as_the_model_predicts(shown: Any) -> None:
    from ebt.problems.images.diffusion import NoiseSchedule
    from ebt.problems.images.models import by_tiles
    from ebt.problems.images.sources import to_picture

    model = shown.images["photos"]
    photo = image.read(image._example(image.open_images(image.PHOTOS)["test"], 0)["background"].resize((96, 80)), 3)
    record = image.clear(model, photo, None, 0.1, 2, 3)
    noisy = NoiseSchedule.linear().noisy(photo[None], 0.1, 3)[0]
    wanted = by_tiles(lambda tiles: model.predict(tiles, steps=2), noisy, model.config.image_size)
    assert record.frames.shape == (3, 80, 96, 3)
    assert np.abs(record.frames[-1].astype(int) - np.array(to_picture(wanted)).astype(int)).max() <= 1
    assert np.array_equal(record.frames[0], np.array(to_picture(noisy)))
    assert record.energies.shape == (3, 80, 96)
    assert "dB before" in record.told
    pictures, curve = image.draw(record, 2)
    assert pictures.count("<img") == 2
    assert 'download="step-2.png"' in pictures
    assert "Mean energy of a patch" in curve


def test_only_painted_pixels_are_filled_in(shown: Any) -> None:
    photo = image.read(image._example(image.open_images(image.PHOTOS)["test"], 0)["background"].resize((96, 80)), 3)
    free = torch.zeros(1, 80, 96, dtype=torch.bool)
    free[:, 20:40, 30:60] = True
    record = image.clear(shown.images["photos"], photo, free, 0.1, 2, 0)
    before, after = (np.abs(record.frames[i].astype(int) - (127.5 * (photo.permute(1, 2, 0).numpy() + 1))) for i in (0, -1))
    assert before[~free[0].numpy()].max() <= 1
    assert after[~free[0].numpy()].max() <= 1
    assert after[free[0].numpy()].mean() < before[free[0].numpy()].mean()


def test_paint_is_read_from_the_editor() -> None:
    photo, layer = Image.new("RGB", (30, 20), "red"), Image.new("RGBA", (30, 20))
    layer.paste((255, 0, 212, 255), (3, 4, 9, 8))
    assert image.painted({"background": photo, "layers": [Image.new("RGBA", (30, 20))]})[1] is None
    paint = image.painted({"background": photo, "layers": [layer]})[1]
    assert paint is not None
    assert paint.getbbox() == (3, 4, 9, 8)
    for nothing in (None, {}, {"background": None}, {"background": Image.new("RGB", (2, 2))}):
        with pytest.raises(InputError, match="There is no photo"):
            image.painted(nothing)


def test_photos_of_any_kind_and_size_are_read() -> None:
    for mode, size in (("L", (4000, 30)), ("RGBA", (20, 900)), ("P", (64, 64))):
        assert max(image.read(Image.new(mode, size), 3).shape) <= image.SIDE


@pytest.mark.parametrize(("name", "context"), [("sudoku-6x6", PUZZLE), ("tiny", "some")])
def test_the_map_goes_through_the_answer(shown: Any, name: str, context: str) -> None:
    found = landscape.find(shown, name, context, 4, 3, 0)
    assert found.paths.shape == (5, 3, 2)
    assert found.paths[-1, found.winner].abs().max() < 1e-9
    assert 0 < found.share <= 1 + 1e-9
    for chosen in (landscape.ENERGY, landscape.OBJECTIVE):
        drawn = landscape.draw(found, 4, chosen)
        assert drawn.count('class="start"') == 3
        assert drawn.count('class="now chosen"') == 1
    assert landscape.draw(found, 0, landscape.ENERGY) != landscape.draw(found, 4, landscape.ENERGY)


def test_what_has_no_landscape_is_refused(shown: Any) -> None:
    with pytest.raises(InputError, match="The board has 2 cells"):
        landscape.find(shown, "sudoku-6x6", "12", 2, 1, 0)
    with pytest.raises(InputError, match="give 1 to"):
        landscape.find(shown, "tiny", "", 2, 1, 0)


def test_text_of_others_is_escaped() -> None:
    drawn = drawing.tokens("<b>&", ["<i>", "\n", " "], [1.0, 2.0, 3.0]) + drawing.words_by_step([(1.0, [("<u>", 0.5)])], "<s>")
    for tag in ("<b>&", "<i>", "<u>", "<s>"):
        assert tag not in drawn.replace("<b>&lt;u&gt;</b>", "")


def test_colours_stay_within_their_range() -> None:
    assert drawing.shade(-5, 0, 1) == drawing.shade(0, 0, 1)
    assert drawing.shade(9, 0, 1) == drawing.shade(1, 0, 1)
    assert drawing.shade(1, 1, 1).startswith("#")


def test_the_application_for_hosts_builds() -> None:
    path = Path(__file__).parents[2] / "app.py"
    import runpy

    found = runpy.run_path(str(path))
    blocks = page.build(page.Shown.sorted(found["engine"], found["found"], found["missing"]))
    assert blocks.title == "Watch a model think"
    found["engine"].close()


def test_tabs_without_models_say_what_to_do() -> None:
    engine = Engine({}, Limits())
    blocks = page.build(page.Shown.sorted(engine, {}, {"photos": "install the models"}))
    engine.close()
    told = str(blocks.config["components"])
    assert "install the models" in told
    assert "No language model that thinks is served" in told


def test_what_the_page_shows_comes_along() -> None:
    assert set(page.SHIPPED) <= set(shelf())


def test_a_stop_is_told_after_all_that_was_on_its_way() -> None:
    """The answer to Stop may overtake what the run has told before."""

    def thinks(_: str) -> Any:
        yield (status.says("Thinking ..."),)
        yield (status.says("Thought"),)

    with gr.Blocks() as blocks:
        status = Status("")
        runs(gr.Button(), gr.Button(), thinks, [gr.Textbox()], [status.html], status)
    calls = {one.fn.__name__: one.fn for one in blocks.fns.values() if one.fn is not None}
    visitor = SimpleNamespace(session_hash="one")
    for after, told in ((lambda: calls["stop"](visitor), ["Stopped."]), (lambda: calls["begin"](visitor, "other"), [])):
        name, _ = calls["begin"](visitor, "puzzle")
        run = calls["call"]("puzzle", name)
        assert "Thinking ..." in next(run)[0]
        after()
        assert [re.sub("<.*?>", "", shown) for (shown,) in run] == told


def test_a_turn_ends_the_one_before_of_the_same_visitor_only() -> None:
    turns, one, other = Turns(), *(SimpleNamespace(session_hash=name) for name in ("one", "other"))
    first, beside, second = turns.next(one), turns.next(other), turns.next(one)
    assert [turns.current(name) for name in (first, beside, second)] == [False, True, True]
    for i in range(VISITORS):
        turns.next(SimpleNamespace(session_hash=str(i)))
    assert not turns.current(second)
    turns.next(one, "sudoku-6x6", "12 34", 16)
    assert turns.about(one, "sudoku-6x6", "12 34")
    assert not turns.about(one, "sudoku-6x6", "12 43")
    assert not turns.about(other, "sudoku-6x6", "12 34")
