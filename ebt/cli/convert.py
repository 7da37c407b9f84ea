"""``ebt convert``: convert a checkpoint of the published code to a model folder."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ebt.cli.run import RECIPE
from ebt.cli.terminal import say
from ebt.errors import InputError
from ebt.interop.reference.checkpoint import read
from ebt.problems.folder import save_folder
from ebt.problems.language.tokenizers import load_tokenizer


def main(args: argparse.Namespace) -> int:
    """Run the command."""
    out = Path(args.out)
    if out.exists():
        raise InputError(f"{out} exists: choose a new folder, or remove it.")
    converted = read(args.checkpoint)
    model, console = converted.model, Console()
    if converted.tokenizer is None and args.tokenizer is not None:
        raise InputError(f"--tokenizer {args.tokenizer}: the checkpoint is not a text model: leave the option out.")
    tokenizer, note = None, ""
    if converted.tokenizer is not None:
        model.config.tokenizer_reference = converted.tokenizer
        tokenizer, note = _tokenizer(args.tokenizer, converted.tokenizer, model.config.vocab_size)
    extra = {} if converted.recipe is None else {RECIPE: _recipe(out, model, converted.recipe)}
    save_folder(model, out, tokenizer, extra)
    size = sum(weight.numel() for weight in model.parameters())
    say(console, f"{args.checkpoint} (update {converted.update:,}): {type(model).__name__}, {size:,} parameters -> {out}")
    if note:
        say(console, note, "yellow")
    if converted.tokenizer is not None:
        say(console, f"Next: ebt validate --checkpoint {shlex.quote(str(out))} --data FILE")
    return 0


def _tokenizer(given: str | None, named: str, words: int) -> tuple[Any, str]:
    """Return the tokenizer of a text model, or None with a message for the user."""
    later = f"The model is saved without a tokenizer: convert again with --tokenizer FOLDER or --tokenizer {named} (download)."
    try:
        tokenizer = load_tokenizer(given or named, download=given is not None)
    except InputError:
        if given is not None:
            raise
        return None, f"The checkpoint's tokenizer, {named}, is not in the local cache. {later}"
    if len(tokenizer) == words:
        return tokenizer, ""
    problem = f"The tokenizer {given or named} has {len(tokenizer)} tokens, the model {words}."
    if given is not None:
        raise InputError(f"{problem} Give the tokenizer that the model was trained with.")
    return None, f"{problem} {later}"


def _recipe(out: Path, model: Any, recipe: Any) -> str:
    """Return a configuration that trains the model further with its own recipe, or evaluates it."""
    config: dict[str, Any] = {"recipe": asdict(recipe)}
    head = "# How this model was trained by the published code, as a recipe of this library.\n"
    if model.config.model_type == "ebt":
        task = {"network": {"pretrained": str(out)}, "recipe": asdict(recipe)}
        data = {"tokenizer": str(out), "context_length": model.config.context_length}
        config = {
            "model": {"class_path": "LanguageTask", "init_args": task},
            "data": {"class_path": "TextDataModule", "init_args": data},
        }
        head += f"#   ebt fit --config {out / RECIPE} --data.source FILE --trainer.max_steps N   continues training.\n"
    return head + yaml.safe_dump(config, sort_keys=False)
