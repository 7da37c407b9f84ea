"""``ebt serve``: a page in the browser, and an OpenAI-compatible API."""

from __future__ import annotations

import argparse
import os
import socket
from pathlib import Path
from typing import Any

from ebt.errors import InputError
from ebt.problems.folder import load_folder
from ebt.serving import LOCAL_HOSTS


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    key = args.key or os.environ.get("EBT_SERVE_KEY") or None
    if args.host not in LOCAL_HOSTS and key is None:
        raise InputError(f"--host {args.host} opens the server to other machines: give --key, or set EBT_SERVE_KEY.")
    import uvicorn

    from ebt.serving import page
    from ebt.serving.api import create_app
    from ebt.serving.engine import TEXT, Served
    from ebt.serving.protocol import Limits

    check_address(args.host, args.port)
    folders, missing = named(args.checkpoint or []), dict[str, str]()
    models: dict[str, Any] = {name: load_folder(folder) for name, folder in folders.items()}
    if not models:
        models, missing = page.come_along()
        folders = {name: name for name in models}
    models = {name: model.to(args.device) for name, model in models.items()}
    texts = {name: Served.of(model, folders[name]) for name, model in models.items() if model.config.model_type in TEXT}
    app = create_app(texts, key, Limits(max_tokens=args.max_tokens, open=args.max_requests))
    others = {name: model for name, model in models.items() if name not in texts}
    try:
        page.mount(app, page.Shown.sorted(app.state.server.engine, others, missing), key)
    except InputError:
        app.state.server.engine.close()
        raise
    address = f"http://{args.host}:{args.port}"
    print(f"page: {address}/  API: {address}/v1  models: {', '.join(models) or 'none'}  (Ctrl-C ends)", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_keep_alive=5)
    return 0


def check_address(host: str, port: int) -> None:
    """Raise ``InputError`` if a server cannot listen at an address."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((address[0], port))
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port} is not free ({error}): choose another port or host.") from error


def named(checkpoints: list[str]) -> dict[str, str]:
    """Folders by the names of their models: those given as NAME=DIR, otherwise the folders' own.

    Raises:
        InputError: If two models have the same name.
    """
    found = dict[str, str]()
    for given in checkpoints:
        name, equals, folder = given.partition("=")
        if not equals or Path(given).exists():
            path = Path(given).resolve()
            name, folder = (path.parent if path.name == "model" else path).name, given
        if name in found:
            raise InputError(f"two models are named {name}: name one of them, --checkpoint NAME={folder}")
        found[name] = folder
    return found
