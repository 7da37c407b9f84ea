"""The stability benchmark is the study of that name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[2] / "benchmarks" / "stability.py"


def test_options_are_those_of_the_study() -> None:
    done = subprocess.run([sys.executable, FILE, "--help"], capture_output=True, text=True, check=True, timeout=60)
    assert "usage: ebt study stability" in done.stdout
    assert "--step-sizes" in done.stdout
