"""A page in the browser on which one watches models think."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from ebt.serving.page import image, landscape, sudoku, text
from ebt.serving.page.models import SHIPPED, Shown, come_along
from ebt.serving.page.parts import VISITORS

__all__ = ["SHIPPED", "Shown", "appearance", "build", "come_along", "mount"]

STYLE = Path(__file__).with_name("style.css")
TABS = {"Sudoku": sudoku.tab, "Text": text.tab, "Image": image.tab, "Landscape": landscape.tab}
WAITING = 32
"""Most visitors in line."""
UPLOAD = "10mb"
USER = "ebt"
"""User name at the door of a page with a key."""
INTRODUCTION = """
# Watch a model think

An Energy-Based Transformer gives an energy to each candidate answer: the lower, the better it fits. It answers by descending
that energy from a random start, step by step.
"""


def build(shown: Shown) -> gr.Blocks:
    """Return the page, with one tab for each kind of model."""
    page = gr.Blocks(title="Watch a model think", analytics_enabled=False, delete_cache=(600, 1800))
    with page, gr.Column(elem_classes="ebt-page"):
        gr.Markdown(INTRODUCTION)
        with gr.Tabs():
            for name, tab in TABS.items():
                with gr.Tab(name):
                    tab(shown)
    page.queue(max_size=WAITING)
    page.state_session_capacity = VISITORS
    return page


def appearance() -> dict[str, Any]:
    """Arguments of Gradio's ``launch`` and ``mount_gradio_app`` for the page. Nothing is loaded from other sites."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", **fonts).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_700",
    )
    return {
        "theme": theme,
        "css_paths": STYLE,
        "footer_links": [],
        "max_file_size": UPLOAD,
        "ssr_mode": False,
        "show_error": True,
    }


def mount(app: FastAPI, shown: Shown, key: str | None = None) -> FastAPI:
    """Add the page to an application at ``/``, behind its other routes.

    Args:
        app: The application.
        shown: The models.
        key: Password that visitors have to give, with the user name ``ebt``. None: nothing is asked.
    """

    def known(user: str, password: str) -> bool:
        return key is not None and user == USER and hmac.compare_digest(password.encode(), key.encode())

    door = {} if key is None else {"auth": known, "auth_message": f"User name {USER}, and the key of this server."}
    return gr.mount_gradio_app(app, build(shown), "/", **door, **appearance())
