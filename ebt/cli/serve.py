"""``ebt serve``: an OpenAI-compatible API over models."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ebt.errors import InputError
from ebt.serving import LOCAL_HOSTS

SHIPPED = "text-python"
"""The language model that comes along."""


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    key = args.key or os.environ.get("EBT_SERVE_KEY") or None
    if args.host not in LOCAL_HOSTS and key is None:
        raise InputError(f"--host {args.host} opens the server to other machines: give --key, or set EBT_SERVE_KEY.")
    import uvicorn

    from ebt.serving.api import create_app
    from ebt.serving.engine import Served
    from ebt.serving.protocol import Limits

    models = {name: Served.load(folder, args.device) for name, folder in named(args.checkpoint or [SHIPPED]).items()}
    limits = Limits(max_tokens=args.max_tokens, open=args.max_requests)
    app = create_app(models, key, limits)
    print(f"serving {', '.join(models)} at http://{args.host}:{args.port}/v1", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="warning", timeout_keep_alive=5)
    return 0


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
