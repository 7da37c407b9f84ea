"""Load, run, train and evaluate models of any problem."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ebt.errors import InputError, naming_extras
from ebt.evaluation.results import Curve, Progress
from ebt.models.thinking import Thinking
from ebt.problems.folder import load_folder
from ebt.problems.registry import HeldOut, Request, problem_of
from ebt.thinking import Thought


@naming_extras()
def load(name: str | PathLike[str], revision: str | None = None) -> Any:
    """Load a model of any problem onto the CPU, in evaluation mode.

    Args:
        name: A bundled model (``sudoku-9x9``; ``ebt models`` lists them), a model folder, a run folder of
            ``ebt fit``, or a model id on the Hugging Face Hub. A folder of that name takes precedence.
        revision: A branch, tag or commit on the Hub.

    Returns:
        A ``transformers`` model. If it has an energy, it has ``think`` and ``predict``.

    Raises:
        InputError: If the model does not exist, is damaged or belongs to another library.
    """
    if not isinstance(name, str | PathLike) or not str(name):
        raise InputError(f"name is {name!r}: give a bundled model, a model folder, a run folder or a model id")
    path = Path(name)
    if path.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return load_folder(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return load_folder(snapshot_download(str(name), revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"no such folder: {name}; it cannot be loaded from the Hugging Face Hub either ({error})") from error


@naming_extras()
def think(model: Any, context: Any, thinking: Thinking | None = None, **options: Any) -> Thought:
    """Think about a context, and keep the best candidate of each prediction.

    Args:
        model: A model that thinks, or its name (see ``load``).
        context: Input of the model: tokens (B, S), puzzles (B, C), images (B, C, H, W) or frames (B, S, E).
        thinking: How to think. Default: the model's own settings.
        options: Fields of ``Thinking`` that this call overrides, for example ``steps=16, candidates=8``.

    Returns:
        The record of the winners, with their ``answer``, their ``energy`` at each step and their ``path``.

    Raises:
        InputError: If the model does not think, or an option is unknown or outside its range.
    """
    model = load(model) if isinstance(model, (str, PathLike)) else model
    if not hasattr(model, "think"):
        raise InputError(f"{type(model).__name__} has no energy and does not think: call predict() instead")
    return model.think(context, thinking, **options)


@naming_extras("train")
def train(
    configuration: str | None,
    name: str | None = None,
    *,
    out: str | None = None,
    resume: bool = False,
    compile: bool = False,
    **settings: Any,
) -> Any:
    """Train a model from a configuration, like ``ebt fit``, and show progress in the terminal.

    Args:
        configuration: Name of a configuration of the library (``sudoku/ebt``), or path to a YAML file. None for
            that of a run to resume.
        name: Name of the run, which is stored in ``runs/NAME``. Default: derived from the configuration.
        out: Folder of the run, instead of ``name``.
        resume: Whether to resume the run of that name or folder from its last checkpoint.
        compile: Whether to compile the model with ``torch.compile``.
        settings: Configuration keys, with ``__`` for each dot: ``trainer__max_steps=500, data__source="my.txt"``. Values are
            those of YAML: None is null, and tuples are lists.

    Returns:
        The model with the lowest validation loss.

    Raises:
        InputError: If the configuration is invalid, or the training was stopped.
    """
    from ebt.cli.main import run as command
    from ebt.cli.run import Run

    begin = [] if configuration is None else [f"--config={configuration}"]
    if not begin and not resume:
        raise InputError("configuration is None, which is for runs to resume: name one, for example language/ebt")
    run = Run.existing(out, name) if resume else Run.new(out, name, [str(configuration)])
    words = {key: str(value) if isinstance(value, str | PathLike) else json.dumps(value) for key, value in settings.items()}
    given = [f"--{key.replace('__', '.')}={value}" for key, value in words.items()]
    if code := command(["fit", *begin, f"--out={run.folder}", *["--resume"] * resume, *["--compile"] * compile, *given]):
        raise InputError(f"training was stopped (exit code {code}): continue it with {run.again}")
    return load(run.folder)


@naming_extras()
def evaluate(
    model: Any,
    data: Any = None,
    steps: Sequence[int] = (1, 2, 4, 8),
    candidates: Sequence[int] = (1,),
    progress: Progress | None = None,
    **options: Any,
) -> Curve[Any]:
    """Measure the quality of a model for each number of steps and candidates, like ``ebt think``.

    Args:
        model: A model, or its name (see ``load``).
        data: Batches of ``input_ids`` and ``targets`` (language), puzzles and solutions (Sudoku), mazes and paths, clean and
            noisy images, frames (B, S + 1, E), or the name of a file or folder as for ``ebt think --data``. Default: the
            held-out data of the run that ``model`` names.
        steps: Numbers of steps to measure.
        candidates: Numbers of candidates to measure.
        progress: Called with the number of rows done and the total number of rows (None if unknown).
        options: Fields of ``Thinking`` to override.

    Returns:
        A curve with ``points``, ``best()`` and ``at(steps, candidates)``.

    Raises:
        InputError: If ``data`` is missing or not supported, a number of steps or candidates is below 1, or options of thinking
            are given for a model without an energy.
    """
    named = isinstance(model, (str, PathLike))
    if data is None and not named:
        raise InputError("data is missing: give data, or name a run folder to use the data that it held out")
    folder, model = (str(model), load(model)) if named else (model.name_or_path, model)
    problem = problem_of(model.config.model_type)
    given = [*options, *["candidates"] * (list(candidates) != [1])]
    if given and not hasattr(model, "landscape"):
        raise InputError(f"{type(model).__name__} has no energy and does not think: leave out {', '.join(given)}")
    if data is None or isinstance(data, (str, PathLike)):
        held_out = problem.held_out(Request(folder, {folder: model}, None if data is None else str(data)))
    else:
        held_out = HeldOut("data", 0, problem.given(model, data))
    return problem.curve(model, held_out, steps, candidates, progress or (lambda *_: None), **options)
