"""The guide's programs run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai")
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serve.md"


def test_the_guide_runs(server: tuple[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"^```py\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    assert "energies" in code
    code = code.replace("http://127.0.0.1:8000", server[0]).replace('model="text"', 'model="tiny"')
    exec(compile(code, str(GUIDE), "exec"), {})
    assert capsys.readouterr().out.count("\n") >= 2
