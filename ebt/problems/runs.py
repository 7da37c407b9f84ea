"""The data settings of a run, read from its saved configuration."""

from __future__ import annotations

from typing import Any

import yaml

from ebt.errors import InputError
from ebt.shelf import located


def run_data(checkpoint: str, module: type[Any]) -> dict[str, Any] | None:
    """Return the data settings of the run that a folder is or belongs to, or ``None`` if there is no run.

    Raises:
        InputError: If the run's configuration cannot be read, or its data module is not a ``module``.
    """
    folder = located(checkpoint).resolve()
    config = next((path for path in (folder / "config.yaml", folder.parent / "config.yaml") if path.is_file()), None)
    if config is None:
        return None
    try:
        read = yaml.safe_load(config.read_text(encoding="utf-8"))
        kind, settings = read["data"]["class_path"].rpartition(".")[2], read["data"].get("init_args") or {}
        settings = {"seed": read["seed_everything"], **settings}  # `ebt fit` passes its seed to the data module
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{config} has no readable data settings ({error!r}): give the data with --data.") from error
    if kind != module.__name__:
        raise InputError(f"{config} has data of class {kind}, not {module.__name__}: give the data with --data.")
    return settings
