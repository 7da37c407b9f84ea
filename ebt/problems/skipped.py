"""How bad parts of a source (files, lines, rows) are handled."""

from typing import Literal

OnError = Literal["skip", "refuse"]
"""``"skip"`` skips them with one warning, ``"refuse"`` raises an error for the first."""
