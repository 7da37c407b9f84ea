"""The folder of a training run and its files."""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ebt.errors import InputError
from ebt.files import write_json, write_text
from ebt.nn import PAPER
from ebt.training.sharded_checkpoints import is_sharded

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

RECIPE = "recipe.yaml"
"""The configuration in a converted model folder, for ``--config``."""
_PATHS = re.compile(r"(source|file|folder|path|dir|root|tokenizer|pretrained|encoder|cache|collection)s?$")
"""Settings that may be paths."""
_BUILT_IN = ("python-docs", "photos", "digits", "bytes", "pixels")
"""Values that are never paths, even if a file of that name exists."""
_ENVIRONMENT = "EBT_RUN_FOLDER"  # passes the run folder to the other processes


@dataclass
class Run:
    """A run folder: config.yaml, checkpoints/last.ckpt and best.ckpt, model/ (the best), logs/, results.json."""

    folder: Path

    def __post_init__(self) -> None:
        self.config = self.folder / "config.yaml"
        self.last = self.folder / "checkpoints" / "last.ckpt"
        """The full state to resume from."""
        self.best = self.folder / "checkpoints" / "best.ckpt"
        """The weights with the lowest ``val/loss``."""
        self.model = self.folder / "model"
        self.logs = self.folder / "logs"
        self.results = self.folder / "results.json"

    @property
    def again(self) -> str:
        """The command that resumes the run."""
        return f"ebt fit --resume --out {shlex.quote(str(self.folder))}"

    def make(self, config: str) -> None:
        """Create the folder and write the configuration to it.

        Raises:
            InputError: The folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(config, self.config)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error}): choose another --out.") from error

    def arguments(self) -> list[str]:
        """Return the options that load the run's configuration, with tokenizer and inner width of its model folder.

        Raises:
            InputError: The configuration cannot be read.
        """
        try:
            read = yaml.safe_load(self.config.read_text(encoding="utf-8"))
            if not isinstance(read, dict):
                raise ValueError("it has no settings")
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{self.config} cannot be read ({reason}): restore it, or give a --config.") from error
        known = (read.get("data") or {}).get("init_args") or {}
        own = known.get("tokenizer") not in (None, "bytes") and (self.model / "tokenizer.json").is_file()
        tokenizer = [f"--data.init_args.tokenizer={self.model.absolute()}"] if own else []
        return [f"--config={self.config}", *tokenizer, *self._inner_width(read)]

    def _inner_width(self, config: dict[str, Any]) -> list[str]:
        """Return the option for the inner width of a network of a paper's size, which was another in earlier versions."""
        network = ((config.get("model") or {}).get("init_args") or {}).get("network") or {}
        saved = self.model / "config.json"
        if network.get("size") not in PAPER or network.get("ffn_dim") is not None or not saved.is_file():
            return []
        return [f"--model.init_args.network.ffn_dim={json.loads(saved.read_text(encoding='utf-8'))['ffn_dim']}"]

    def add_results(self, results: dict[str, Any]) -> None:
        """Add entries to results.json, and replace those of the same name."""
        write_json({**self.read_results(), **results}, self.results)

    def read_results(self) -> dict[str, Any]:
        """Return the entries of results.json."""
        try:
            return dict(json.loads(self.results.read_text(encoding="utf-8"))) if self.results.is_file() else {}
        except (ValueError, TypeError):  # truncated by a full disk; its contents can be recomputed
            return {}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from training in the folder during the block.

        Raises:
            InputError: Another process trains in it, or it cannot be created.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.folder, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be written ({error}): choose another --out.") from error
        try:
            if fcntl is not None:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise InputError(f"another process trains in {self.folder}: choose another --name or --out.") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(folder)

    @classmethod
    def new(cls, out: str | None, name: str | None, configs: list[str]) -> Run:
        """Return the folder of a new run: ``--out``, ``runs/NAME``, or an unused name derived from the configuration.

        Raises:
            InputError: The folder contains a run.
        """
        folder = os.environ.get(_ENVIRONMENT)
        if folder and os.environ.get("LOCAL_RANK", "0") != "0":  # in a process that the first one started
            return cls(Path(folder))
        run = cls.named(out, name)
        if run is None:
            path = Path(configs[-1] if configs else "run.yaml")
            parent = path.parent.parent if path.parent.name == "configs" else path.parent
            stem = "-".join(part for part in (parent.name.strip("."), path.name.removesuffix(".yaml")) if part)
            candidates = (cls(Path("runs") / (stem if i == 1 else f"{stem}-{i}")) for i in count(1))
            run = next(candidate for candidate in candidates if not candidate.folder.exists())
        elif run.last.exists() or run.model.exists():
            raise InputError(f"{run.folder} already contains a run: give --resume, or choose another --name or --out.")
        os.environ[_ENVIRONMENT] = str(run.folder)
        return run

    @classmethod
    def existing(cls, out: str | None, name: str | None) -> Run:
        """Return the folder of a run to resume.

        Raises:
            InputError: No folder is given, or it has no checkpoint.
        """
        run = cls.named(out, name)
        if run is None:
            raise InputError("--resume needs a run: give the --name or --out that it was started with.")
        if not run.last.exists():
            raise InputError(f"no checkpoint to resume from: {run.last}. Check the name, or start the run without --resume.")
        return run

    @classmethod
    def named(cls, out: str | None, name: str | None) -> Run | None:
        """Return the folder given by ``--out`` or ``--name``, or None.

        Raises:
            InputError: Both are given, or an empty name.
        """
        if out is not None and name is not None:
            raise InputError(f"--out {out} and --name {name} both set the run folder: give only one of them.")
        if "" in (out, name):
            raise InputError("the run folder has an empty name: give --name or --out with a name, or leave them out.")
        return cls(Path(out)) if out is not None else cls(Path("runs") / name) if name is not None else None

    @classmethod
    def of(cls, checkpoint: str) -> tuple[Run, Path]:
        """Return the run of a run folder or checkpoint, and the checkpoint; of a run folder, the best or the last one.

        Raises:
            InputError: ``checkpoint`` is neither.
        """
        path = Path(checkpoint)
        given = path.is_file() or is_sharded(path)
        run = cls(path.resolve().parent.parent if given else path)
        file = path if given else run.best if run.best.is_file() else run.last
        if not run.config.is_file() or not file.exists():
            raise InputError(
                f"not a run folder: {checkpoint}. Give a run folder of `ebt fit`, with config.yaml and checkpoints/, or a file "
                "in its checkpoints/."
            )
        return run, file


def absolute(settings: Any, name: str = "") -> Any:
    """Return the settings with relative paths made absolute, so that they do not depend on the working directory."""
    if isinstance(settings, Mapping):
        return {key: absolute(value, str(key)) for key, value in settings.items()}
    if isinstance(settings, list):
        return [absolute(value, name) for value in settings]
    if not isinstance(settings, str) or not settings or settings in _BUILT_IN:
        return settings
    path = Path(settings)
    named = _PATHS.search(name) or len(path.parts) > 1 or path.suffix
    return str(path.absolute()) if named and os.path.exists(path) else settings  # noqa: PTH110 (no error for long texts)
