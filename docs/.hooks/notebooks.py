"""Shows notebooks as pages: MkDocs calls ``on_files`` before it reads any page. A notebook itself stays as a download."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
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
    title, *parts = list(_parts(notebook["cells"], name, pictures))
    heading, _, rest = title.partition("\n")
    note = f"[Download this notebook]({name}{SUFFIX}){{ download }}"
    return "\n\n".join((heading, note, rest.strip(), *parts)) + "\n", pictures


def _parts(cells: list[dict[str, Any]], name: str, pictures: dict[str, bytes]) -> Iterator[str]:
    topic = name
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            topic = ([line.lstrip("# ") for line in source.splitlines() if line.startswith("#")] or [topic])[-1]
            yield source.replace(f"{SUFFIX})", ".md)")
        else:
            yield f"```python\n{source}\n```"
            yield from (_output(output, name, topic, pictures) for output in cell["outputs"])


def _output(output: dict[str, Any], name: str, topic: str, pictures: dict[str, bytes]) -> str:
    if output["output_type"] == "stream":
        return f"``` {{ .text .no-copy .output }}\n{''.join(output['text']).rstrip()}\n```"
    if "image/png" not in output.get("data", {}):
        raise PluginError(f"{name}: a cell has an output that is neither text nor a PNG; clear it, or print it")
    file = f"{name}-{len(pictures) + 1}.png"
    pictures[file] = base64.b64decode(output["data"]["image/png"])
    return f"![{topic}, plotted]({file})"
