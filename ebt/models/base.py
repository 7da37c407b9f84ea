"""Base classes of models: saving, loading and thinking."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ebt.checks import as_tensor
from ebt.errors import INSTALL, InputError
from ebt.files import digest, write_json
from ebt.models.exploration import Explored, explore
from ebt.models.thinking import Thinking, think
from ebt.thinking import Geometry, StepSize, Thought, Update
from ebt.thinking.descent import leave_inference_mode

MODULE = "modeling_ebt"
"""Module in a saved folder. It imports this library, so the folder holds no copy of the code."""
CHECKSUMS = "checksums.json"
"""File with the SHA-256 of each weight file in a saved folder."""

_SHIM = '''"""Imports the model for ``transformers`` (``trust_remote_code=True``) from an installed package."""

try:
    from {0} import {2}
    from {1} import {3}
except ImportError as error:
    raise ImportError({4!r} + f" The import failed with: {{error}}") from error

__all__ = ["{2}", "{3}"]
'''


class HubModel(PreTrainedModel):
    """A Hugging Face model. Saved folders load in any program with ``trust_remote_code=True``."""

    auto_class: ClassVar[str] = "AutoModel"
    """The auto class that loads the model."""

    _built = False

    def post_init(self) -> None:
        super().post_init()
        self._built = True

    def _init_weights(self, module: nn.Module) -> None:
        """Called by ``transformers`` for weights that a checkpoint lacks. Modules initialise themselves when they are built.

        Raises:
            InputError: If weights are missing.
        """
        missing = [name for name, weight in module.named_parameters(recurse=False) if not hasattr(weight, "_is_hf_initialized")]
        if self._built and missing:
            where = next((name for name, other in self.named_modules() if other is module), "")
            raise InputError(f"the checkpoint lacks {'.'.join((where, missing[0]))}: load a complete checkpoint")

    def save_pretrained(self, save_directory: str | PathLike[str], is_main_process: bool = True, **kwargs: Any) -> None:
        """Save configuration, weights, checksums and the module that imports the classes. To save atomically, use
        ``ebt.problems.save_folder``."""
        auto = {"AutoConfig": type(self.config), self.auto_class: type(self)}
        self.config.auto_map = {name: f"{MODULE}.{kind.__name__}" for name, kind in auto.items()}
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            folder = Path(save_directory)
            (folder / f"{MODULE}.py").write_text(self._shim(), encoding="utf-8")
            write_json({file.name: digest(file) for file in sorted(folder.glob("*.safetensors"))}, folder / CHECKSUMS)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as in ``transformers``, and verify checksums if the folder has any.

        Raises:
            InputError: If weights differ from those that were saved.
        """
        check_weights(Path(str(pretrained_model_name_or_path)) / kwargs.get("subfolder", ""))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def prepared(self, context: Any) -> Any:
        """Check a context that a user gave, and convert it to a batch."""
        return context

    @classmethod
    def _shim(cls) -> str:
        """Source of the module in a saved folder. It imports library classes from ``ebt.problems`` only."""
        homes = ["ebt.problems" if kind.__module__.startswith("ebt.") else kind.__module__ for kind in (cls.config_class, cls)]
        remedy = f"This model needs the package {homes[1].partition('.')[0]}. {INSTALL.format(extra='hub')}"
        return _SHIM.format(*homes, cls.config_class.__name__, cls.__name__, remedy)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Do nothing, since saved folders import this library and hold no copy of its source."""


def check_weights(folder: Path) -> None:
    """Verify the weights of a folder against its checksums, if it has any.

    Raises:
        InputError: If a weight file is missing or was changed, or the checksums cannot be read.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(sums, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy the folder again, or save the model again") from error
    for name, known in sums.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing but listed in {path}: copy the whole folder, or save the model again")
        if digest(file) != known:
            remedy = f"copy it again, or save the model again; if it was changed on purpose, remove {path}"
            raise InputError(f"{file} is damaged, its checksum differs from {CHECKSUMS}: {remedy}")


class ThinkingModel(HubModel):
    """Base class of models that think. They have a learned step size, and their configuration holds thinking options.

    Subclasses implement ``landscape``, ``geometry``, ``parts`` and ``answer``. ``CONTEXT`` names the further arguments of
    ``landscape`` and ``parts``.
    """

    step_size: StepSize
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["step_size"]
    """In 16 bits, updates of the step size would be lost in rounding."""
    CONTEXT: ClassVar[tuple[str, ...]] = ()

    @property
    def thinking(self) -> Thinking:
        """Default thinking options, saved with the model."""
        return Thinking(**self.config.thinking)

    @thinking.setter
    def thinking(self, how: Thinking) -> None:
        self.config.thinking = asdict(self.how(how))

    def how(self, thinking: Thinking | None = None, **options: Any) -> Thinking:
        """Thinking options of one call: ``thinking``, or the model's own, updated with the options that are not None.

        Raises:
            InputError: If an option is unknown, of the wrong type or outside its range.
        """
        if not isinstance(thinking, Thinking | None):
            raise InputError(f"thinking is {thinking!r}: give an ebt.Thinking, or its fields by name")
        try:
            how = (self.thinking if thinking is None else thinking).but(**options)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.config.check_thinking(how)
        return how

    def landscape(self, *context: Any, **more: Any) -> Any:
        """The landscape of a context."""
        raise NotImplementedError

    def geometry(self) -> Geometry:
        """Where candidates live."""
        raise NotImplementedError

    def update(self) -> Update:
        """How candidates move."""
        return self.config.make_update()

    def parts(self, *context: Any, **more: Any) -> tuple[int, ...]:
        """Shape (B, *P) of the predictions for a context."""
        raise NotImplementedError

    def answer(self, context: Any, thought: Thought, how: Thinking) -> Any:
        """Decode the answer from the final states."""
        raise NotImplementedError

    def first(self, *context: Any, **more: Any) -> Tensor | None:
        """Starting states (B, *P, K). None: random."""
        return None

    def positions(self, *context: Any, **more: Any) -> Tensor | None:
        """Positions of the predictions (B, *P), which make random draws independent of batching. None: from 0."""
        return None

    @torch.no_grad()
    def think(
        self,
        context: Any,
        thinking: Thinking | None = None,
        *,
        generator: torch.Generator | None = None,
        keep_path: bool = True,
        final_energy: bool = True,
        backend: str = "auto",
        **options: Any,
    ) -> Thought:
        """Think about a context.

        Works under ``no_grad`` and ``inference_mode``.

        Args:
            context: Input of the model: tokens (B, S), puzzles (B, C), images (B, C, H, W) or frames (B, S, E).
            thinking: How to think. Default: the model's own settings.
            generator: Source of starts and noise. Default: they depend only on seed, step, candidate and position.
            keep_path: Whether to keep the state after every step, or only the last one.
            final_energy: Whether to evaluate the energy of the final states, which self-verification needs.
            backend: ``plain`` or ``auto``, see ``ebt.descend``.
            options: Fields of ``Thinking`` that this call overrides, for example ``steps=16, candidates=8``, and the arguments
                named in ``CONTEXT``.

        Returns:
            The record of the winners, with their ``answer``, their ``energy`` at each step and their ``path``. Its
            ``candidates`` is the record of all candidates.

        Raises:
            InputError: If an option is unknown or outside its range.
        """
        more = {name: options.pop(name) for name in self.CONTEXT if name in options}
        how, context = self.how(thinking, **options), self.prepared(context)
        with leave_inference_mode():
            bound = self._bind(context, how, more)
            thought = think(**bound, generator=generator, keep_path=keep_path, final_energy=final_energy, backend=backend)
            return replace(thought, shown=self.answer(context, thought, how))

    def _bind(self, context: Any, how: Thinking, more: dict[str, Any]) -> dict[str, Any]:
        """Arguments of ``ebt.models.thinking.think`` for a context."""
        return {
            "positions": self.positions(context, **more),  # before the cache is updated
            "energy": self.landscape(context, **more),
            "geometry": self.geometry(),
            "update": self.update(),
            "step_size": self.step_size(),
            "how": how,
            "parts": self.parts(context, **more),
            "start": self.first(context, **more),
        }

    @torch.no_grad()
    def explore(
        self,
        context: Any,
        steps: Sequence[int],
        candidates: Sequence[int] = (1,),
        thinking: Thinking | None = None,
        **options: Any,
    ) -> Explored:
        """Think about a context once for several numbers of steps and candidates, each ascending. Other arguments as in
        ``think``."""
        more = {name: options.pop(name) for name in self.CONTEXT if name in options}
        how = self.how(thinking, **{**options, "steps": max(steps), "candidates": max(candidates)})
        with leave_inference_mode():
            bound, conditioned = self._bind(context, how, more), self.config.conditioning != "none"
            return explore(**bound, steps=steps, conditioned=conditioned)

    def predict(self, context: Any, thinking: Thinking | None = None, **options: Any) -> Any:
        """The answer of ``think``. Takes the same arguments."""
        return self.think(context, thinking, **options).answer


def batch(given: Any, name: str, *sizes: int | None) -> Tensor:
    """A context as a batch (B, *sizes) of floating point numbers. None: any size.

    Raises:
        InputError: If it has another shape, or numbers that are not finite.
    """
    found = as_tensor(name, given)
    pairs = zip(found.shape[1:], sizes, strict=False)
    if found.dim() != 1 + len(sizes) or any(size not in (None, own) for own, size in pairs) or not found.numel():
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise InputError(f"{name} has shape {tuple(found.shape)}: give (B, {wanted}) with at least one row")
    if not found.isfinite().all():
        raise InputError(f"{name} has numbers that are not finite: replace them")
    return found if found.is_floating_point() else found.float()


@dataclass
class Prediction(ModelOutput):
    """Output of models for boards, images and frames."""

    prediction: Tensor | None = None
    """Completed boards (B, C), clean images (B, C, H, W) or next frames (B, S, E)."""
    energies: Tensor | None = None
    """Energies of the winners per prediction, before each step and of the final state, (T + 1, B, ...)."""
    steps: Tensor | None = None
    """Number of steps taken, per prediction."""
