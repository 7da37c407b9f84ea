"""Model folders: saved atomically, loaded with errors that name what is wrong.

A folder holds ``config.json``, ``model.safetensors`` and its checksum, ``generation_config.json`` (language models), the module
that lets ``transformers`` find the classes, and the tokenizer's files if there is one.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from ebt.errors import InputError
from ebt.models.base import HubModel
from ebt.problems.registry import models

SHOWN = 3
"""So many names are written out in an error."""


def save_folder(
    model: HubModel,
    directory: str | PathLike[str],
    tokenizer: PreTrainedTokenizerBase | None = None,
    extra: Mapping[str, str] | None = None,
) -> Path:
    """Save a model, and its tokenizer, so that a reader finds either the complete new folder or the complete old one.

    Everything is written beside the folder first, which then takes its place; whatever fails before leaves the old one alone.
    With a tokenizer, the generation configuration gets its end-of-text and padding tokens where it has none. ``extra``: texts
    of further files by their names.

    Raises:
        InputError: the directory holds something else than a model, cannot be written, or the tokenizer's vocabulary is not the
            model's.
    """
    target = Path(directory).resolve()
    if target.exists() and not (target / "config.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is no model folder: choose a new or empty one")
    if tokenizer is not None:
        tokenizer = _fitting(copy.deepcopy(tokenizer), model.config.to_dict(), str(target))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(model.generation_config, name) is None:
                setattr(model.generation_config, name, getattr(tokenizer, name))
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _no_progress_bars():
            model.save_pretrained(fresh)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
        for name, text in (extra or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
        _replace(target, fresh)
    except OSError as error:
        raise InputError(f"{target} cannot be written ({error}): check its permissions and free space") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def load_folder(directory: str | PathLike[str], expect: str | type[HubModel] | Iterable[str | type[HubModel]] = ()) -> Any:
    """The model of a folder, in evaluation mode, on the CPU, in the dtype it was saved in.

    Args:
        directory: a model folder, or a run folder of ``ebt fit`` with one named ``model`` in it.
        expect: model type or types (``"ebt"``) or model classes that the caller can use; any, by default.

    Raises:
        InputError: no such folder, no or broken configuration, another model type, or weights that are missing, cut short, of
            other names or shapes than the configuration asks for, or other than those that were saved, where the folder has
            their checksums.
    """
    folder = find_folder(directory)
    config = _read_config(folder)
    model_class = _model_class(folder, config, expect)
    try:
        configuration = model_class.config_class.from_dict(config)
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in model_class(configuration).state_dict().items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    _compare(folder, wanted)
    try:
        with _no_progress_bars():
            return model_class.from_pretrained(folder, local_files_only=True)
    except InputError:
        raise
    except Exception as error:  # of a malformed further file, which may raise anything
        raise InputError(f"{folder} cannot be loaded ({error}): save the model again") from error


def load_tokenizer_of(directory: str | PathLike[str]) -> Any:
    """The tokenizer of a model folder or run folder.

    Raises:
        InputError: no such folder, no tokenizer in it, one that cannot be read, or one of another vocabulary than the model's.
    """
    models()  # whose configurations a tokenizer's class may depend on
    folder = find_folder(directory)
    config = _read_config(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        named = config.get("tokenizer_reference")
        known = f" It was trained with {named}: convert it again with --tokenizer FOLDER." if named else ""
        remedy = "save the model with one, `save_folder(model, directory, tokenizer)`."
        raise InputError(f"{folder} has no tokenizer: {remedy}{known}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust side raises plain Exception on a malformed file
        raise InputError(f"the tokenizer of {folder} cannot be read ({error}): save it again") from error
    return _fitting(tokenizer, config, str(folder))


def find_folder(directory: str | PathLike[str]) -> Path:
    """The model folder that a directory is, or has under the name ``model``.

    Raises:
        InputError: there is none.
    """
    path = Path(directory)
    if not path.is_dir():
        raise InputError(f"{path} is no folder: give a model folder, or a run folder of `ebt fit`")
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    raise InputError(f"{path} has no config.json, nor has {path / 'model'}: give a model folder, or a run folder of `ebt fit`")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _replace(target: Path, fresh: Path) -> None:
    if not target.exists():
        fresh.rename(target)
        return
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    target.rename(old)
    try:
        fresh.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): save the model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is no JSON object: save the model again")
    return config


def _model_class(
    folder: Path, config: dict[str, Any], expect: str | type[HubModel] | Iterable[str | type[HubModel]]
) -> type[HubModel]:
    wanted = [expect] if isinstance(expect, (str, type)) else expect
    known, found = models(), str(config.get("model_type"))
    accepted = [each if isinstance(each, str) else each.config_class.model_type for each in wanted] or list(known)
    if found not in accepted:
        raise InputError(
            f"{folder} holds a model of type {found!r}, but {' or '.join(map(repr, accepted))} is needed: "
            "give the folder of such a model"
        )
    return known[found]


def _compare(folder: Path, wanted: dict[str, tuple[int, ...]]) -> None:
    """Raises InputError unless the weights of a folder can be read and have the shapes ``wanted``."""
    files, stored = sorted(folder.glob("model*.safetensors")), dict[str, tuple[int, ...]]()
    if not files:
        raise InputError(f"{folder} has no weights (model.safetensors): copy the whole folder, or save the model again")
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                stored |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise InputError(f"{file} is damaged or cut short ({error}): copy it again, or save the model again") from error
    others = [name for name in wanted if stored.get(name, wanted[name]) != wanted[name]]
    problems = {
        "lack": [name for name in wanted if name not in stored],
        "have the unexpected": [name for name in stored if name not in wanted],
        "have other shapes in": [f"{name} {stored[name]}, not {wanted[name]}" for name in others],
    }
    if any(problems.values()):
        more = {what: f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "" for what, names in problems.items()}
        found = "; ".join(f"{what} {', '.join(names[:SHOWN])}{more[what]}" for what, names in problems.items() if names)
        raise InputError(f"the weights in {folder} do not fit its config.json: they {found}. Use the one they came with")


def _fitting(tokenizer: Any, config: dict[str, Any], where: str) -> Any:
    """The tokenizer, of the model's vocabulary, with the model's context as its longest text unless it is shorter already."""
    if len(tokenizer) != config.get("vocab_size"):
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer)} words, the model {config.get('vocab_size')}. "
            "Use the tokenizer that the model was trained with"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.get("context_length") or tokenizer.model_max_length)
    return tokenizer
