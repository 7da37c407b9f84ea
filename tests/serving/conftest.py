"""A server in a thread, over a tiny model in double precision."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from small_models import language_ebt, language_twin

from ebt.problems.language.tokenizers import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m['role'][0] }}:{{ m['content'] }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def chat_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., tuple[str, Any]]]:
    """Start a server: returns its address and its application. All end with the session."""
    pytest.importorskip("fastapi")
    uvicorn = pytest.importorskip("uvicorn")
    from ebt.serving.api import create_app
    from ebt.serving.engine import Served

    running = []

    def start(**options: Any) -> tuple[str, Any]:
        models = {
            "tiny": Served(language_ebt(), byte_tokenizer()),
            "chat": Served(language_ebt(), chat_tokenizer()),
            "twin": Served(language_twin(), byte_tokenizer()),
        }
        app = create_app(models, **options)
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        running.append((server, thread))
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return f"http://127.0.0.1:{listening.getsockname()[1]}", app

    yield start
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join(10)


@pytest.fixture(scope="session")
def server(serve: Callable[..., tuple[str, Any]]) -> tuple[str, Any]:
    return serve()
