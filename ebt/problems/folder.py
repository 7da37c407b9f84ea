"""Model folders: saved atomically, and checked when they are loaded.

A folder holds ``config.json``, ``model.safetensors`` and its checksum, ``generation_config.json`` (language models), the module
through which ``transformers`` finds the classes, and the files of the tokenizer if there is one.
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
from ebt.files import put, unwritten
from ebt.models.base import HubModel
from ebt.problems.registry import model_class, model_types
from ebt.shelf import located, suggestion

SHOWN = 3
"""Maximum number of names listed in an error."""


def save_folder(
    model: HubModel,
    directory: str | PathLike[str],
    tokenizer: PreTrainedTokenizerBase | None = None,
    extra: Mapping[str, str] | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Save a model and its tokenizer atomically.

    The files are written to a temporary folder, which then replaces ``directory``. If anything fails before, the old folder is
    left unchanged. With a tokenizer, missing special token ids of the generation configuration are filled in from it.

    Args:
        model: Model to save.
        directory: Target folder: new, empty or a model folder.
        tokenizer: Tokenizer to save with the model.
        extra: Contents of additional text files by file name.
        weights: State dictionary to save. Default: the model's own, which must not be sharded.

    Raises:
        InputError: If the directory holds something other than a model or cannot be written, or if the vocabulary of the
            tokenizer differs from the model's.
    """
    target = Path(directory).resolve()
    if target.exists() and not (target / "config.json").is_file() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} exists and is not a model folder: choose a new or empty folder")
    if tokenizer is not None:
        tokenizer = _fitting(copy.deepcopy(tokenizer), model.config.to_dict(), str(target))
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(model.generation_config, name) is None:
                setattr(model.generation_config, name, getattr(tokenizer, name))
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _no_progress_bars():
            model.save_pretrained(fresh, state_dict=weights)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
        for name, text in (extra or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
        put(fresh, target)
    except Exception as error:
        if not unwritten(error):
            raise
        raise InputError(f"{target} cannot be written ({error}): check its permissions and free space") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def load_folder(directory: str | PathLike[str], expect: str | type[HubModel] | Iterable[str | type[HubModel]] = ()) -> Any:
    """Load a model in evaluation mode, on the CPU, in the dtype it was saved in.

    Args:
        directory: Model folder, a run folder of ``ebt fit`` that contains one named ``model``, or the name of a
            bundled model (``ebt models``).
        expect: Accepted model types (``"ebt"``) or model classes. Any by default.

    Raises:
        InputError: If the folder does not exist, its configuration is missing or invalid, the model type is not accepted, or
            the weights are missing, truncated, do not match the configuration or do not match their checksums.
    """
    folder = find_folder(directory)
    config = _read_config(folder)
    kind = _model_class(folder, config, expect)
    try:
        configuration = kind.config_class.from_dict(config)
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in kind(configuration).state_dict().items()}
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'}: {error}") from error
    _compare(folder, wanted)
    try:
        with _no_progress_bars():
            return kind.from_pretrained(folder, local_files_only=True)
    except InputError:
        raise
    except Exception as error:  # a malformed file may raise anything
        raise InputError(f"{folder} cannot be loaded ({error}): save the model again") from error


def load_tokenizer_of(directory: str | PathLike[str]) -> Any:
    """Load the tokenizer of a model folder or run folder.

    Raises:
        InputError: If there is no such folder, it has no readable tokenizer, or the vocabulary differs from the model's.
    """
    folder = find_folder(directory)
    config = _read_config(folder)
    if config.get("model_type") in model_types():
        model_class(config["model_type"])  # the class of a tokenizer may depend on its configuration
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        named = config.get("tokenizer_reference")
        known = f" It was trained with {named}: convert it again with --tokenizer FOLDER." if named else ""
        remedy = "save the model together with it, `save_folder(model, directory, tokenizer)`."
        raise InputError(f"{folder} has no tokenizer: {remedy}{known}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust code raises a plain Exception for a malformed file
        raise InputError(f"the tokenizer of {folder} cannot be read ({error}): save it again") from error
    return _fitting(tokenizer, config, str(folder))


def find_folder(directory: str | PathLike[str]) -> Path:
    """Return ``directory`` or its subfolder ``model``, whichever is a model folder, or the folder of a bundled model.

    Raises:
        InputError: If there is none.
    """
    path = located(directory)
    if not path.is_dir():
        remedy = "Give a model folder, a run folder of `ebt fit`, or a name of `ebt models`."
        raise InputError(f"not a directory: {path}. {remedy}{suggestion(directory)}")
    for folder in (path, path / "model"):
        if (folder / "config.json").is_file():
            return folder
    if (path / "checkpoints").is_dir():
        raise InputError(f"{path} is a run without a model folder, as runs of own tasks are: `ebt validate` measures it.")
    raise InputError(f"neither {path} nor {path / 'model'} has a config.json: give a model or run folder")


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): save the model again") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object: save the model again")
    return config


def _model_class(
    folder: Path, config: dict[str, Any], expect: str | type[HubModel] | Iterable[str | type[HubModel]]
) -> type[HubModel]:
    wanted = [expect] if isinstance(expect, (str, type)) else expect
    found = str(config.get("model_type"))
    accepted = [each if isinstance(each, str) else each.config_class.model_type for each in wanted] or model_types()
    if found not in accepted:
        raise InputError(
            f"{folder} holds a model of type {found!r}, but {' or '.join(map(repr, accepted))} is needed: "
            "give the folder of a model of that type"
        )
    return model_class(found)


def _compare(folder: Path, wanted: dict[str, tuple[int, ...]]) -> None:
    """Raise ``InputError`` unless the weights of a folder are readable and have the shapes ``wanted``."""
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
        raise InputError(f"the weights in {folder} do not match its config.json: they {found}. Use the file saved with them")


def _fitting(tokenizer: Any, config: dict[str, Any], where: str) -> Any:
    """Return the tokenizer with its maximum length limited to the model's context, after comparing the vocabularies."""
    if len(tokenizer) != config.get("vocab_size"):
        raise InputError(
            f"{where}: the tokenizer has {len(tokenizer)} tokens, but the model has {config.get('vocab_size')}. "
            "Use the tokenizer the model was trained with"
        )
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.get("context_length") or tokenizer.model_max_length)
    return tokenizer
