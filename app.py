"""The page of models that think, for hosts of Gradio apps: ``python app.py``. On your own machine: ``ebt serve``."""

from __future__ import annotations

import os

from ebt.cli.main import SPIN

os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # before torch is imported

from ebt.serving.engine import Engine, Served
from ebt.serving.page import SHIPPED, Shown, appearance, build, come_along
from ebt.serving.protocol import Limits

found, missing = come_along(SHIPPED[1:])
engine = Engine({SHIPPED[0]: Served.load(SHIPPED[0])}, Limits())

if __name__ == "__main__":
    build(Shown.sorted(engine, found, missing)).launch(**appearance())
