"""Shows code of the library on a page: a line ``@source ebt.module.name ...`` becomes the code, without docstrings."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
LINE = re.compile(r"^@source (.+)$", re.MULTILINE)
Named = ast.FunctionDef | ast.ClassDef


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the lines that ask for code."""
    return LINE.sub(lambda found: block(found[1].split()), markdown)


def block(names: list[str]) -> str:
    """Return a code block with the code of some names of a module, and the place of the first as title."""
    found = [locate(name) for name in names]
    file, first = found[0]
    code = "\n\n".join(bare(file.read_text(encoding="utf-8").splitlines(), node) for file, node in found)
    return f'``` {{ .python title="{file.relative_to(ROOT)}, line {first.lineno}" }}\n{code}\n```'


def locate(name: str) -> tuple[Path, Named]:
    """Return the file and the node of ``ebt.module.name`` or ``ebt.module.Class.name``.

    Raises:
        PluginError: If there is no such name.
    """
    parts = name.split(".")
    for i in range(len(parts) - 1, 0, -1):
        file = ROOT.joinpath(*parts[:i]).with_suffix(".py")
        if file.is_file():
            node: Any = ast.parse(file.read_text(encoding="utf-8"))
            for part in parts[i:]:
                inner = ast.iter_child_nodes(node) if node else ()
                node = next((one for one in inner if isinstance(one, Named) and one.name == part), None)
            if node:
                return file, node
    raise PluginError(f"@source {name}: there is no such function or class")


def bare(lines: list[str], node: Named) -> str:
    """Return the code of a node without docstrings, and without the indentation of its class."""
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    kept = dict(enumerate(lines[start - 1 : node.end_lineno], start))
    for inner in ast.walk(node):
        if isinstance(inner, Named) and ast.get_docstring(inner):
            text = inner.body[0]
            last = text.end_lineno or text.lineno
            last += not lines[last].strip()  # an empty line after it
            for i in range(text.lineno, last + 1):
                kept.pop(i, None)
    return "\n".join(line[node.col_offset :] for line in kept.values())
