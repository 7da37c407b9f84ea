"""The folder of a training run: what is in it, and where."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebt.errors import InputError
from ebt.files import write_json, write_text

RECIPE = "recipe.yaml"
"""In a converted model folder: how to train or evaluate the model further, for ``--config``."""
_ENVIRONMENT = "EBT_RUN_FOLDER"  # tells the other processes of a run its folder


@dataclass(frozen=True)
class Run:
    """``RUN/``: config.yaml, checkpoints/last.ckpt and best.ckpt, model/ (the best, for Hugging Face), logs/, results.json."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def last(self) -> Path:
        """All that a resumed run needs."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        """The weights with the lowest val/loss."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def results(self) -> Path:
        return self.folder / "results.json"

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
        if inherited := _inherited():
            return inherited
        run = cls.named(out, name)
        if run is None:
            path = Path(configs[-1].removeprefix("configs/")) if configs else Path("run.yaml")
            stem = "-".join(part for part in (path.parent.name, path.name.removesuffix(".yaml")) if part)
            candidates = (cls(Path("runs") / (stem if i == 1 else f"{stem}-{i}")) for i in range(1, 100_000))
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
            raise InputError(
                f"{run.folder} has no checkpoint to resume from ({run.last} is missing): check the name, or start it without "
                "--resume."
            )
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
                f"{checkpoint} is no run folder of `ebt fit` with config.yaml and checkpoints/, and no file of its checkpoints."
            )
        return run, file


def _inherited() -> Run | None:
    """The run folder, in the processes that the first one starts for its other devices."""
    folder = os.environ.get(_ENVIRONMENT)
    return Run(Path(folder)) if folder and os.environ.get("LOCAL_RANK", "0") != "0" else None
