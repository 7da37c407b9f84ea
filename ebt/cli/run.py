"""The folder of a training run: what is in it, and where."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import yaml

from ebt.errors import InputError
from ebt.files import write_json, write_text

RECIPE = "recipe.yaml"
"""In a converted model folder: how to train or evaluate the model further, for ``--config``."""
_PATHS = re.compile(r"(source|file|folder|path|dir|root|tokenizer|pretrained|encoder|cache|collection)s?$")
"""Names of settings that may be paths."""
_BUILT_IN = ("python-docs", "photos", "digits", "bytes", "pixels")
"""Values that are never paths, whatever lies in the folder."""
_ENVIRONMENT = "EBT_RUN_FOLDER"  # tells the other processes of a run its folder


@dataclass
class Run:
    """``RUN/``: config.yaml, checkpoints/last.ckpt and best.ckpt, model/ (the best, for Hugging Face), logs/, results.json."""

    folder: Path

    def __post_init__(self) -> None:
        self.config = self.folder / "config.yaml"
        self.last = self.folder / "checkpoints" / "last.ckpt"
        """All that a resumed run needs."""
        self.best = self.folder / "checkpoints" / "best.ckpt"
        """The weights with the lowest val/loss."""
        self.model = self.folder / "model"
        self.logs = self.folder / "logs"
        self.results = self.folder / "results.json"

    def make(self, config: str) -> None:
        """Make the folder, with the configuration in it.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(config, self.config)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error}): choose another --out.") from error

    def arguments(self) -> list[str]:
        """Its configuration for the command line. A tokenizer is that of its model, wherever the run started."""
        read = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        known = (read.get("data") or {}).get("init_args") or {}
        own = known.get("tokenizer") not in (None, "bytes") and (self.model / "tokenizer.json").is_file()
        return [f"--config={self.config}", *([f"--data.init_args.tokenizer={self.model.absolute()}"] if own else [])]

    def add_results(self, results: dict[str, Any]) -> None:
        """Add to results.json, replacing entries of the same names."""
        try:
            old = json.loads(self.results.read_text(encoding="utf-8")) if self.results.is_file() else {}
        except ValueError:  # cut short by a full disk: everything in it can be had again
            old = {}
        write_json({**old, **results}, self.results)

    @classmethod
    def new(cls, out: str | None, name: str | None, configs: list[str]) -> Run:
        """The folder of a new run: ``--out``, or ``runs/NAME``; without a name one that is free, after the configuration.

        Raises:
            InputError: a run is there already.
        """
        folder = os.environ.get(_ENVIRONMENT)
        if folder and os.environ.get("LOCAL_RANK", "0") != "0":  # in a process that the first one started for another device
            return cls(Path(folder))
        run = cls.named(out, name)
        if run is None:
            path = Path(configs[-1] if configs else "run.yaml")
            parent = path.parent.parent if path.parent.name == "configs" else path.parent
            stem = "-".join(part for part in (parent.name.strip("."), path.name.removesuffix(".yaml")) if part)
            candidates = (cls(Path("runs") / (stem if i == 1 else f"{stem}-{i}")) for i in count(1))
            run = next(candidate for candidate in candidates if not candidate.folder.exists())
        elif run.last.exists() or run.model.exists():
            raise InputError(f"{run.folder} holds a run already: continue it with --resume, or choose another --name or --out.")
        os.environ[_ENVIRONMENT] = str(run.folder)
        return run

    @classmethod
    def existing(cls, out: str | None, name: str | None) -> Run:
        """The folder of a run to resume.

        Raises:
            InputError: none is named, or it has no checkpoint.
        """
        run = cls.named(out, name)
        if run is None:
            raise InputError("--resume needs the run: give --name or --out as when it was started.")
        if not run.last.is_file():
            raise InputError(f"no checkpoint to resume from: {run.last}. Check the name, or start the run without --resume.")
        return run

    @classmethod
    def named(cls, out: str | None, name: str | None) -> Run | None:
        """The folder that the options name, if they do.

        Raises:
            InputError: both are given.
        """
        if out is not None and name is not None:
            raise InputError(f"--out {out} and --name {name} both name the run folder: give one.")
        return cls(Path(out)) if out is not None else cls(Path("runs") / name) if name is not None else None

    @classmethod
    def of(cls, checkpoint: str) -> tuple[Run, Path]:
        """The run of ``--checkpoint``, a run folder or a file of its checkpoints, and the file: the best, or the last.

        Raises:
            InputError: it is neither.
        """
        path = Path(checkpoint)
        run = cls(path.resolve().parent.parent if path.is_file() else path)
        file = path if path.is_file() else run.best if run.best.is_file() else run.last
        if not run.config.is_file() or not file.is_file():
            raise InputError(
                f"not a run folder: {checkpoint}. Give a run folder of `ebt fit`, with config.yaml and checkpoints/, or a file "
                "in its checkpoints/."
            )
        return run, file


def absolute(settings: Any, name: str = "") -> Any:
    """Settings with absolute paths in the place of relative ones, so that they mean the same in every folder."""
    if isinstance(settings, Mapping):
        return {key: absolute(value, str(key)) for key, value in settings.items()}
    if isinstance(settings, list):
        return [absolute(value, name) for value in settings]
    if not isinstance(settings, str) or not settings or settings in _BUILT_IN:
        return settings
    path = Path(settings)
    named = _PATHS.search(name) or len(path.parts) > 1 or path.suffix
    return str(path.absolute()) if named and os.path.exists(path) else settings  # noqa: PTH110 (no error for long texts)
