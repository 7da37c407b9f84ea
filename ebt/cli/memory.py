"""Out of memory: which part of a training asked for too much, and what to lower."""

from __future__ import annotations

import re
import traceback

import torch

from ebt.errors import InputError

_BATCH = "lower data.batch_size (trainer.accumulate_grad_batches makes up for it) or data.context_length"
_PARTS = (
    (r"/torch/optim/", "the optimiser's state", "choose a smaller model.network.size, or trainer.precision bf16-true"),
    (r"/ebt/training/task\.py:_evaluate", "an evaluation", "lower data.evaluation_batch_size or model.validation_steps"),
    (
        r"/ebt/thinking/(geometry|fast/vocabulary|fast/compact)",
        "the vocabulary",
        f"{_BATCH}, or train a tokenizer with fewer words",
    ),
    (r"/ebt/training/sharding", "the whole weights, which an update gathers", "choose a smaller model.network.size"),
    (r":configure_model$", "the model's weights", "choose a smaller model.network.size, or trainer.precision bf16-true"),
    (r"/ebt/problems/\w+/(data|corpora|packing|sources|clips|features)", "the data", "give less data, or set data.streaming"),
    (r"/torch/autograd/|:backward$", "the backward passes", f"{_BATCH}, or model.recipe.max_steps"),
    (
        r"/ebt/(nn|thinking|models|problems)/|:training_step$",
        "the activations of thinking",
        f"{_BATCH}, or model.recipe.max_steps",
    ),
)
"""Where an error came from, as file:function; the part; the remedy. The innermost place that is known counts."""


def out_of_memory(error: BaseException) -> InputError | None:
    """What a user should know of an error, if it says that memory ran out."""
    text = str(error)
    told = isinstance(error, MemoryError | torch.OutOfMemoryError) or re.search(r"can't allocate memory|out of memory", text)
    if not told:
        return None
    places = [f"{frame.filename}:{frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    part, remedy = next(
        ((part, remedy) for place in reversed(places) for pattern, part, remedy in _PARTS if re.search(pattern, place)),
        ("the training", _BATCH),
    )
    size = re.search(r"allocate (\d+) bytes", text) or re.search(r"allocate ([\d.]+ [KMG]iB)", text)
    asked = "" if size is None else f", which asked for {_amount(size[1])} more"
    return InputError(f"Out of memory in {part}{asked}: {remedy}. `ebt plan` tells what fits.")


def _amount(size: str) -> str:
    return f"{int(size) / 2**20:,.0f} MiB" if size.isdecimal() else size
