"""The front door: models of any problem by name, what they think, how they are trained, what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from ebt.errors import InputError
from ebt.evaluation.results import Curve, Progress
from ebt.models.thinking import Thinking
from ebt.problems.folder import load_folder
from ebt.problems.registry import HeldOut, Request, problem_of
from ebt.thinking import Thought


def load(name: str | PathLike[str], revision: str | None = None) -> Any:
    """Load a model of any problem, in evaluation mode, on the CPU.

    Args:
        name: a model folder, a run folder of ``ebt fit``, or the id of a model on the Hugging Face hub.
        revision: a branch, tag or commit on the hub.

    Returns:
        a ``transformers`` model with ``think``, ``predict`` and ``forward``.

    Raises:
        InputError: no such folder or model, or one that is damaged or of another library.
    """
    path = Path(name)
    if path.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return load_folder(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return load_folder(snapshot_download(str(name), revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"no such folder: {name}; nor can it be had from the Hugging Face hub ({error})") from error


def think(model: Any, context: Any, thinking: Thinking | None = None, **options: Any) -> Thought:
    """Think about a context.

    Args:
        model: a model that thinks, or the name of one (see ``load``).
        context: what it is given: tokens (B, S), puzzles (B, C), images (B, C, H, W), frames (B, S, E).
        thinking: how; the model's own by default.
        options: fields of ``Thinking`` for this call, such as ``steps=16, candidates=8``.

    Returns:
        the winners: ``answer``, ``energy`` at each step, ``path``.

    Raises:
        InputError: a model that does not think, an option that there is not, or outside its range.
    """
    model = load(model) if isinstance(model, (str, PathLike)) else model
    if not hasattr(model, "think"):
        raise InputError(f"{type(model).__name__} does not think: it has no energy. Call predict() instead.")
    return model.think(context, thinking, **options)


def train(configuration: str, name: str | None = None, **settings: Any) -> Any:
    """Train a model by a configuration, as ``ebt fit`` does, with its progress in the terminal.

    Args:
        configuration: the name of one of the library's, such as ``sudoku/ebt``, or a YAML file.
        name: of the run, whose folder is ``runs/NAME``; after the configuration by default.
        settings: keys of the configuration with ``__`` for the dots: ``trainer__max_steps=500, data__source="my.txt"``.

    Returns:
        the best model by the validation loss.

    Raises:
        InputError: something in the configuration is wrong, or the training was stopped.
    """
    from ebt.cli.main import run as command
    from ebt.cli.run import Run

    run = Run.new(None, name, [configuration])
    given = [f"--{key.replace('__', '.')}={value}" for key, value in settings.items()]
    if code := command(["fit", f"--config={configuration}", f"--out={run.folder}", *given]):
        raise InputError(f"the training was stopped (exit code {code}): continue it with ebt fit --resume --out {run.folder}")
    return load(run.folder)


def evaluate(
    model: Any,
    data: Any = None,
    steps: Sequence[int] = (1, 2, 4, 8),
    candidates: Sequence[int] = (1,),
    progress: Progress | None = None,
    **options: Any,
) -> Curve[Any]:
    """Quality of a model after each number of steps with each number of candidates, as ``ebt think`` measures it.

    Args:
        model: a model, or the name of one (see ``load``).
        data: batches of ``input_ids`` and ``targets`` (language), puzzles and solutions (Sudoku), clean and noisy images, or
            frames (B, S + 1, E); what the run held out, by default, where ``model`` names a run.
        steps: numbers of steps to measure.
        candidates: numbers of candidates to measure.
        progress: called with the rows done, and all rows where that is known.
        options: fields of ``Thinking``.

    Returns:
        a curve: ``points``, ``best()``, ``at(steps, candidates)``.

    Raises:
        InputError: data that are not known, or numbers below 1.
    """
    folder = str(model) if isinstance(model, (str, PathLike)) else None
    model = model if folder is None else load(folder)
    problem = problem_of(model.config.model_type)
    if data is None:
        if folder is None:
            raise InputError("data is missing: give it, or the run folder of the model, which knows what it held out")
        held_out = problem.held_out(Request(folder, {folder: model}))
    else:
        held_out = HeldOut("data", 0, data if problem.name != "images" or len(data) > 2 else (*data, None))
    return problem.curve(model, held_out, steps, candidates, progress or (lambda *_: None), **options)
