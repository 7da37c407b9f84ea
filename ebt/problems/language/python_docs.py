"""The embedded corpus `python-docs`: the documentation of the running Python, for training without a download."""

from __future__ import annotations

import ast
import os
import re
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from ebt.errors import InputError

_SMALLEST_DOCUMENT = 200  # characters: shorter documents carry too little text
_TESTS = ("test", "tests", "idle_test")


def documentation_texts() -> list[str]:
    """Return about 2.5 MB of English text and small examples, identical for every build of a Python version.

    One document per module of the standard library (its docstrings, each under its name and arguments; the sources
    are parsed, not imported), sorted by name, then one per topic of the language reference (`pydoc_data.topics`). Tests,
    repeated paragraphs and documents under 200 characters are left out.

    Raises:
        InputError: If this Python has no readable standard library sources.
    """
    from pydoc_data.topics import topics

    seen: set[str] = set()
    texts = [_module_text(name, path, seen) for name, path in _standard_modules()]
    if not texts:
        raise InputError(
            "The corpus python-docs needs the .py files of the standard library, but this Python has none in "
            f"{sysconfig.get_path('stdlib')}. Use a regular Python installation or another source."
        )
    for name in sorted(topics):
        text = _new_paragraphs(topics[name], seen)
        if len(text) > len(topics[name]) / 2:  # topics that mostly repeat others are left out
            texts.append(_clean(text))
    return [text for text in texts if len(text) >= _SMALLEST_DOCUMENT]


def source_texts(count: int) -> list[str]:
    """Return sources of modules evenly spread over the standard library, without the docstrings of `documentation_texts`."""
    modules = [path for _, path in _standard_modules()]
    texts = (_code(path) for path in modules[:: max(1, len(modules) // (2 * count))])
    return [text for text in texts if len(text) >= _SMALLEST_DOCUMENT][:count]


def _parse(path: Path) -> ast.Module:
    """Parse a module. Unreadable ones (templates and deliberately bad code of some versions) are empty."""
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def _code(path: Path) -> str:
    tree = _parse(path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if tree.body else []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node):
            first = node.body[0]
            lines[first.lineno - 1 : first.end_lineno] = [""] * ((first.end_lineno or first.lineno) - first.lineno + 1)
    return "".join(lines)


def _standard_modules() -> list[tuple[str, Path]]:
    """Names and files of the standard library's Python modules."""
    found = {}
    for root in sorted({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib")}):
        for folder, folders, files in os.walk(root):
            # The rule for names excludes site-packages, dist-packages and the build's configuration.
            folders[:] = [name for name in folders if name.isidentifier() and name not in _TESTS]
            for path in (Path(folder, name) for name in files if name.endswith(".py")):
                parts = path.relative_to(root).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return sorted((name, path) for name, path in found.items() if name)


def _module_text(name: str, path: Path, seen: set[str]) -> str:
    tree = _parse(path)
    entries = [_new_paragraphs(ast.get_docstring(tree) or "", seen)]
    for header, docstring in _entries(tree, ""):
        entry = _new_paragraphs(docstring, seen)
        entries.append(header + "\n" + textwrap.indent(entry, "    ") if entry else "")
    entries = [entry for entry in entries if entry]
    return _clean("\n\n".join([f"Module {name}", *entries])) if entries else ""


def _entries(node: ast.AST, prefix: str) -> Iterator[tuple[str, str]]:
    """Header lines and docstrings of the classes and functions of a module or class, without local functions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name, docstring = prefix + child.name, ast.get_docstring(child)
            if docstring:
                header = f"class {name}:" if isinstance(child, ast.ClassDef) else f"{name}({ast.unparse(child.args)})"
                yield header, docstring
            if isinstance(child, ast.ClassDef):
                yield from _entries(child, name + ".")
        elif isinstance(child, (ast.If, ast.Try)):
            yield from _entries(child, prefix)


def _new_paragraphs(text: str, seen: set[str]) -> str:
    """Remove paragraphs of 60 characters or more that occur in another document, so that no split repeats another."""
    kept = []
    for paragraph in text.split("\n\n"):
        if len(paragraph) < 60 or paragraph not in seen:
            kept.append(paragraph)
            seen.add(paragraph)
    return "\n\n".join(kept)


def _clean(text: str) -> str:
    """Normalise to ASCII quotes and dashes, no control characters, no trailing blanks and at most one blank line."""
    plain = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\xa0": " "})
    lines = text.translate(plain).expandtabs().split("\n")
    lines = [line if line.isprintable() else "".join(filter(str.isprintable, line)) for line in lines]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in lines)).strip() + "\n"
