"""Measurements of trained language models on texts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ebt.errors import InputError
from ebt.evaluation.measure import thinks
from ebt.files import finite
from ebt.lab.studies import sets
from ebt.lab.studies.models import training_data
from ebt.lab.studies.pool import Report
from ebt.lab.studies.runs import Json
from ebt.problems.folder import load_folder
from ebt.problems.language.metrics import language_curve
from ebt.problems.language.packing import PackedExamples
from ebt.problems.language.tokenizers import encode, load_tokenizer

CHOOSING, MEASURED = "choosing", "held-out"
"""The two halves of the held-out text: the first to choose, for example a number of steps, and the second to measure."""


def measure_curve(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Measure quality against thinking steps and candidates."""
    model, batches = open_model(settings, places), contexts_of(settings, places)

    def progress(done: int, _: int | None) -> None:
        report(done, settings["contexts"], "")

    rule = settings.get("rule", "lowest")
    return finite(language_curve(model, batches, settings["steps"], settings["candidates"], rule=rule, progress=progress))


@torch.no_grad()
def measure_temperatures(settings: Json, places: Json, report: Report) -> dict[str, Any]:
    """Measure nats per token with logits divided by temperatures. An EBT takes ``steps`` and answers by a ``rule``."""
    model, sums, scored = open_model(settings, places), dict.fromkeys(map(str, settings["temperatures"]), 0.0), 0
    how = {name: settings[name] for name in ("steps", "rule") if name in settings}
    for batch in contexts_of(settings, places):
        logits, targets = model(input_ids=batch["input_ids"], **how).logits.float().flatten(0, 1), batch["targets"].flatten()
        for name in sums:
            sums[name] += F.cross_entropy(logits / float(name), targets, reduction="sum").item()
        scored += len(targets)
        report(scored, settings["contexts"] * batch["targets"].shape[1], "")
    return {name: total / scored for name, total in sums.items()}


def open_model(settings: Json, places: Json) -> Any:
    """Load the model of a measurement, with its candidate noise and the first step of means."""
    model = load_folder(places["model"])
    if thinks(model):
        model.thinking = model.thinking.but(noise=settings.get("candidate_noise", 0.0), mean_from=settings.get("mean_from"))
    return model


def contexts_of(settings: Json, places: Json) -> list[dict[str, Tensor]]:
    """Return batches of full contexts, evenly spread over the text.

    Raises:
        InputError: The text is too short.
    """
    text, count = settings["model"]["text"], settings["contexts"]
    shape = tuple((name, text[name]) for name in ("tokenizer", "context_length", "batch_size"))
    where = tuple((name, places[name]) for name in ("train", "validation"))
    dataset: Any = _dataset(shape, where, places["text"])
    whole = len(dataset) - 1  # the last one may be padded
    first, last = {CHOOSING: (0, whole // 2), MEASURED: (whole // 2, whole)}.get(places["text"], (0, whole))
    if last - first < count:
        raise InputError(
            f"{places['text']} has {max(0, last - first)} full contexts of {text['context_length']} tokens, but --contexts is "
            f"{count}: give more text, or lower --contexts."
        )
    return list(DataLoader(Subset(dataset, evenly(first, last, count)), batch_size=text["batch_size"]))


def evenly(first: int, last: int, count: int) -> list[int]:
    """Return ``count`` evenly spaced integers in [first, last)."""
    return np.linspace(first, last - 1, count).round().astype(int).tolist()


@functools.lru_cache(maxsize=16)
def _dataset(shape: tuple[tuple[str, Any], ...], where: tuple[tuple[str, Any], ...], text: str) -> Dataset[Any]:
    """Read and encode a text once for all models, which share the tokenizer. Both names of a half give the held-out text."""
    if text in (CHOOSING, MEASURED):
        return _held_out(shape, where)
    tokenizer = load_tokenizer(dict(shape)["tokenizer"])
    documents = ((None, ids) for ids in encode(tokenizer, sets.read(text)))
    return PackedExamples(documents, dict(shape)["context_length"], tokenizer.eos_token_id)


@functools.lru_cache(maxsize=1)
def _held_out(shape: tuple[tuple[str, Any], ...], where: tuple[tuple[str, Any], ...]) -> Dataset[Any]:
    loader: Any = training_data(dict(shape), dict(where), seed=0).val_dataloader()
    return loader.dataset
