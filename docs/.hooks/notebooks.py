"""Shows notebooks as pages: MkDocs calls ``on_files`` before it reads any page. A notebook itself stays as a download."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SUFFIX = ".ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page, and the pictures on it, for each notebook."""
    for file in [file for file in files if file.src_uri.endswith(SUFFIX)]:
        path = PurePosixPath(file.src_uri)
        page, pictures = render(json.loads(Path(file.abs_src_path or "").read_text(encoding="utf-8")), path.stem)
        files.append(File.generated(config, str(path.with_suffix(".md")), content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, str(path.with_name(name)), content=picture))
    return files


def render(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and the pictures on it by file name."""
    pictures: dict[str, bytes] = {}
    title, *parts = [part for cell in notebook["cells"] for part in _cell(cell, name, pictures)]
    heading, _, rest = title.partition("\n")
    note = f"[Download this notebook]({name}{SUFFIX}){{ download }}"
    return "\n\n".join((heading, note, rest.strip(), *parts)) + "\n", pictures


def _cell(cell: dict[str, Any], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source.replace(f"{SUFFIX})", ".md)")
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        if output["output_type"] == "stream":
            yield f"``` {{ .text .no-copy .output }}\n{''.join(output['text']).rstrip()}\n```"
        elif "image/png" in output.get("data", {}):
            file = f"{name}-{len(pictures) + 1}.png"
            pictures[file] = base64.b64decode(output["data"]["image/png"])
            yield f"![Picture of the cell above]({file})"
        else:
            raise ValueError(f"{name}: a cell has an output that is neither text nor a PNG; clear it, or print it")
