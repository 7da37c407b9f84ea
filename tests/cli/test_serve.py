from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from small_models import language_folder, sudoku_folder

from ebt.cli.main import main

TestClient = pytest.importorskip("starlette.testclient").TestClient


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """What would be served."""
    uvicorn = pytest.importorskip("uvicorn")
    found: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: found.append((app, options)))
    monkeypatch.delenv("EBT_SERVE_KEY", raising=False)
    return found


def test_models_are_served_by_name_to_this_machine(tmp_path: Path, started: list[Any]) -> None:
    run, twin = language_folder(tmp_path / "run" / "model"), language_folder(tmp_path / "twin", twin=True)
    folders = ["--checkpoint", run, "--checkpoint", f"rival={twin}"]
    assert main(["serve", *folders, "--port", "8123", "--max-requests", "3"]) == 0
    (app, options) = started[0]
    assert (options["host"], options["port"]) == ("127.0.0.1", 8123)
    assert list(app.state.server.models) == ["run", "rival"]
    assert app.state.server.limits.open == 3
    app.state.server.engine.close()


def test_boards_are_served_on_the_page(tmp_path: Path, started: list[Any]) -> None:
    assert main(["serve", "--checkpoint", sudoku_folder(tmp_path / "own")]) == 0
    page = TestClient(started[0][0], base_url="http://127.0.0.1").get("/config").json()
    assert "own" in str(page["components"])
    started[0][0].state.server.engine.close()


def test_a_key_guards_the_page_too(tmp_path: Path, started: list[Any]) -> None:
    assert main(["serve", "--checkpoint", language_folder(tmp_path / "model"), "--key", "secret"]) == 0
    client = TestClient(started[0][0])
    assert client.get("/config").status_code == 401
    assert client.post("/login", data={"username": "ebt", "password": "wrong"}).status_code == 400
    assert client.post("/login", data={"username": "ebt", "password": "secret"}).status_code == 200
    assert client.get("/config").status_code == 200
    started[0][0].state.server.engine.close()


def test_the_models_that_come_along_are_the_default(started: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve"]) == 0
    assert list(started[0][0].state.server.models) == ["text-python"]
    told = capsys.readouterr().out
    assert "page: http://127.0.0.1:8000/" in told
    assert "sudoku-6x6, sudoku-9x9, sudoku-6x6-twin, photos" in told
    started[0][0].state.server.engine.close()


def test_other_machines_need_a_key(
    tmp_path: Path, started: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", "--checkpoint", language_folder(tmp_path / "model"), "--host", "0.0.0.0"]
    assert main(command) == 2
    assert "give --key, or set EBT_SERVE_KEY" in capsys.readouterr().err
    monkeypatch.setenv("EBT_SERVE_KEY", "secret")
    assert main(command) == 0
    assert started[0][0].state.server.key == b"secret"
    started[0][0].state.server.engine.close()


def test_what_cannot_be_served_is_named(tmp_path: Path, started: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--checkpoint", "digits"]) == 2
    assert "'ebt_video', which cannot be served" in capsys.readouterr().err
    assert main(["serve", "--checkpoint", str(tmp_path / "a/same"), "--checkpoint", str(tmp_path / "b/same")]) == 2
    assert "two models are named same" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 65536 + 80):
            assert main(["serve", "--checkpoint", "text-python", "--port", str(port)]) == 2
            assert f"--port {port} is not free" in capsys.readouterr().err
    assert not started


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--checkpoint", "nowhere"]) == 2
    assert "this needs the package uvicorn, which comes with the extra 'serve'" in capsys.readouterr().err
