"""What becomes of bad parts of a source (a file, a line, a row)."""

from typing import Literal

OnError = Literal["skip", "refuse"]
"""They are skipped with one warning, or the first of them is an error."""
