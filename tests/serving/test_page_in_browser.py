"""The page in a real browser: what it does, and its look at the widths of a desktop and a phone, light and dark."""

from __future__ import annotations

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENS = {"desktop": (1280, 900, "light"), "phone": (390, 844, "dark")}
SETTLED = """dark => document.body.classList.contains('dark') === dark
    && document.getAnimations().every(one => one.playState !== 'running' || one.effect.getTiming().iterations === Infinity)"""
"""The page has taken a colour scheme, and its colours no longer fade."""
NARROW = "[document.documentElement.scrollWidth, window.innerWidth]"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ebt.serving import page
    from ebt.serving.api import create_app
    from ebt.serving.engine import Served

    app = create_app({"text-python": Served.load("text-python")})
    found, missing = page.come_along(("sudoku-6x6", "sudoku-9x9", "sudoku-6x6-twin", "photos"))
    page.mount(app, page.Shown.sorted(app.state.server.engine, found, missing))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    server.should_exit = server.force_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("needs Chromium: install the package chromium")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])


@contextmanager
def visit(browser: Any, address: str, screen: str) -> Iterator[Any]:
    """The page on a screen. Its errors, and requests to other hosts, fail the test at the end."""
    width, height, scheme = SCREENS[screen]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
    opened, faults = context.new_page(), list[str]()
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("response", lambda answer: faults.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith((address, "data:", "blob:")) else faults.append(asked.url))
    opened.set_default_timeout(60_000)
    try:
        opened.goto(address)
        opened.get_by_role("tab", name="Sudoku").wait_for()
        yield opened
    finally:
        context.close()
    assert faults == []


@pytest.fixture(scope="module")
def page(browser: Any, address: str) -> Iterator[Any]:
    with visit(browser, address, "desktop") as opened:
        yield opened


def button(page: Any, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True).locator("visible=true")


def status(page: Any, told: str) -> None:
    sync_api.expect(page.locator(".ebt-status:visible", has_text=re.compile(told))).to_be_visible(timeout=60_000)


def opened(page: Any, tab: str) -> None:
    page.get_by_role("tab", name=tab).click()


def looks_right(page: Any, *screens: str) -> None:
    """On all screens there is no horizontal scroll bar, axe finds no serious fault, and nothing covers a button."""
    for screen in screens or (*reversed(SCREENS),):
        width, height, scheme = SCREENS[screen]
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.wait_for_function(SETTLED, arg=scheme == "dark")
        scroll, inner = page.evaluate(NARROW)
        assert scroll <= inner, screen
        faults = [
            (screen, fault["id"], fault["nodes"][0]["html"])
            for fault in Axe().run(page).response["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert faults == []
        for each in page.locator("button:visible:enabled:not([tabindex='-1'])").all():
            each.click(trial=True, timeout=5000)


def slid(page: Any, label: str, value: int) -> None:
    number = page.get_by_role("spinbutton", name=re.compile(f"for {label}$")).locator("visible=true")
    page.wait_for_timeout(500)  # the last update of the page may set it once more
    number.fill(str(value))
    number.press("Enter")


def paints(page: Any) -> None:
    opened(page, "Image")
    page.get_by_role("radio", name="Fill in what I paint over").check()
    canvas = page.locator("canvas").locator("visible=true").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 40, middle[1] + 20, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    button(page, "Think").click()
    status(page, "^2 steps$")
    page.locator(".ebt-picture figcaption", has_text="Photo after step 2").wait_for()


def test_the_page_does_not_answer_for_the_api(address: str) -> None:
    answer = httpx.get(f"{address}v1/embeddings")
    assert answer.status_code == 404
    assert "GET /v1/embeddings" in answer.json()["error"]["message"]
    assert httpx.get(f"{address}v1/models").json()["object"] == "list"


def test_a_phone_opens_all_tabs_thinks_and_paints(browser: Any, address: str) -> None:
    with visit(browser, address, "phone") as page:
        for tab in ("Text", "Image", "Landscape", "Sudoku"):
            opened(page, tab)
            button(page, "Continue" if tab == "Text" else "Draw the map" if tab == "Landscape" else "Think").wait_for()
        button(page, "Think").click()
        status(page, "Thought 32 steps with 6 candidates.*solved")
        looks_right(page, "phone")
        paints(page)


def test_a_board_fills_in(page: Any) -> None:
    opened(page, "Sudoku")
    button(page, "Think").click()
    status(page, "Thought 32 steps with 6 candidates.*solved")
    board = page.locator(".ebt-board:not(.small)").first
    assert "step 32" in board.inner_text()
    assert page.locator(".ebt-boards .ebt-board.small").count() == 6
    assert page.get_by_text("sudoku-6x6-twin, the same network without thinking").count() == 1
    slid(page, "Step", 0)
    page.locator(".ebt-board caption", has_text="start, energy").wait_for()
    looks_right(page)


def test_what_is_no_puzzle_is_said(page: Any) -> None:
    opened(page, "Sudoku")
    puzzle = page.get_by_label("Puzzle").locator("visible=true").first
    before = puzzle.input_value()
    puzzle.fill("12345")
    status(page, "The puzzle has 5 cells")
    button(page, "Stop").click()
    status(page, "Stopped")
    button(page, "Think").click()
    status(page, "The puzzle has 5 cells")
    puzzle.fill(before)
    status(page, "Press Think")


def test_a_random_board_of_another_size(page: Any) -> None:
    opened(page, "Sudoku")
    page.get_by_role("radio", name="sudoku-9x9").locator("visible=true").check()
    page.locator(".ebt-board.of-9").first.wait_for()
    puzzle = page.get_by_label("Puzzle").locator("visible=true").first
    # A press at once is heard: when the page has not told of the new puzzle, and when the last run still ends.
    for _ in range(3):
        before = puzzle.input_value()
        button(page, "Random puzzle").click()
        sync_api.expect(puzzle).not_to_have_value(before)
        button(page, "Think").click()
        status(page, "Step|Thinking")
        button(page, "Stop").click()
        status(page, "Stopped")
    looks_right(page)


def test_a_token_shows_how_it_was_thought(page: Any) -> None:
    opened(page, "Text")
    slid(page, "New tokens", 20)
    button(page, "Continue").click()
    status(page, "20 tokens, .* a second")
    tokens = page.locator(".ebt-tokens button")
    assert tokens.count() == 20
    tokens.nth(3).click()
    page.locator(".ebt-words caption", has_text="Token 4,").wait_for()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.locator(".ebt-words caption", has_text="Token 5,").wait_for()
    assert page.locator(".ebt-words tbody tr").count() == 4
    looks_right(page)


def test_a_photo_clears_up_and_painted_parts_are_filled_in(page: Any) -> None:
    opened(page, "Image")
    button(page, "Think").click()
    status(page, r"2 steps: [\d.]+ dB before, [\d.]+ dB after")
    assert page.locator(".ebt-picture img").count() == 2
    page.get_by_role("radio", name="Fill in what I paint over").check()
    button(page, "Think").click()
    status(page, "Nothing is painted")
    looks_right(page)
    paints(page)


def test_a_landscape_is_drawn(page: Any) -> None:
    opened(page, "Landscape")
    button(page, "Draw the map").click()
    status(page, r"5 candidates, 12 steps. The plane holds \d+ %")
    picture = page.locator(".ebt-map")
    assert picture.locator(".start").count() == 5
    page.get_by_role("radio", name="Energy", exact=True).check()
    page.locator(".ebt-map[aria-label*='energy']").wait_for()
    page.get_by_role("radio", name="text-python").locator("visible=true").check()
    sync_api.expect(page.get_by_label("Puzzle, or text")).to_have_value("The function returns")
    button(page, "Draw the map").click()
    status(page, r"The plane holds")
    looks_right(page)
