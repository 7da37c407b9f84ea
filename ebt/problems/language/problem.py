"""The language problem as seen by the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from ebt.errors import InputError
from ebt.evaluation.results import Curve, Progress
from ebt.problems.folder import find_folder, load_tokenizer_of
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.metrics import MEASURE, LanguagePoint, check_batch, language_curve
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.registry import HeldOut, Problem, Request, late, run_data, unknown_data


class Language(Problem):
    """Prediction of the next token of a text."""

    name = "language"
    models = (EBTForCausalLM, TransformerPPForCausalLM)
    task = late("ebt.problems.language.task:LanguageTask")
    data = late("ebt.problems.language.data:TextDataModule")
    measure = MEASURE
    columns = ("nats per token", "perplexity", "right %")
    options = ("candidates", "rule")
    rules = (*Problem.rules, "decided", "visited", "majority", "mean")

    def cells(self, point: LanguagePoint) -> list[str]:
        error = "" if point.nats_error is None else f" ±{point.nats_error:.3f}"
        perplexity = f"{point.perplexity:.2f}" if point.perplexity < 1e5 else f"{point.perplexity:.1e}"
        return [f"{point.nats:.4f}{error}", perplexity, f"{100 * point.accuracy:.1f}"]

    def told(self, point: LanguagePoint) -> str:
        return f"{point.nats:.4f} nats per token"

    def held_out(self, request: Request) -> HeldOut:
        """Batches of up to ``limit`` contexts (64 by default), evenly spread over the data."""
        first, *others = request.models
        vocabulary = load_tokenizer_of(first).get_vocab()
        for name in others:
            if load_tokenizer_of(name).get_vocab() != vocabulary:
                raise InputError(f"--baseline {name} has a different tokenizer: compare models with the same tokenizer.")
        context, split = min(model.config.context_length for model in request.models.values()), request.split
        settings = run_data(request.checkpoint, self.data) or {}
        common: dict[str, Any] = {"tokenizer": str(find_folder(first)), "context_length": context, "num_workers": 0}
        if (source := request.data) is not None:
            fields = {name: settings[name] for name in ("text_field", "prompt_field") if name in settings}
            data = self.data(source, test_source=source, fractions=(1.0, 0.0, 0.0), **fields, **common)
            name, split = Path(source).name, "test"
            note = f"All of {source} is used: held-out quality only if the model was not trained on it."
        elif settings:
            data, note = self.data(**{**settings, **common}), ""
            name = f"{split} documents of {settings.get('source', 'the run')}"
        else:
            raise unknown_data(request.checkpoint)
        loader: Any = data.test_dataloader() if split == "test" else data.val_dataloader()
        if not loader:
            raise InputError("The run has no validation documents: use --split test, or give the data with --data.")
        rows = _spread(loader.dataset, request.limit or 64)
        return HeldOut(name, len(rows), list(DataLoader(rows, batch_size=request.batch_size or 8)), note)

    def given(self, model: Any, data: Any) -> Iterator[Mapping[str, Tensor]]:
        """Batches of ``input_ids`` and ``targets`` (B, S)."""
        if isinstance(data, (str, Tensor)) or not isinstance(data, Iterable):
            raise InputError(f"data is {type(data).__name__}: give batches, dicts of input_ids and targets (B, S)")
        return (check_batch(found, model.config.vocab_size) for found in ([data] if isinstance(data, Mapping) else data))

    def curve(
        self, model: Any, held_out: HeldOut, steps: Sequence[int], candidates: Sequence[int], bar: Progress, **options: Any
    ) -> Curve[LanguagePoint]:
        options.pop("batch_size", None)  # the batches exist already
        return language_curve(model, held_out.data, steps, candidates, progress=bar, **options)


PROBLEM = Language()


def _spread(dataset: Any, limit: int) -> Any:
    """Up to ``limit`` examples, evenly spread over the dataset. For a stream, the first ones."""
    if isinstance(dataset, IterableDataset):
        return list(islice(dataset, limit))
    return Subset(dataset, np.linspace(0, len(dataset) - 1, min(limit, len(dataset))).round().astype(int).tolist())
