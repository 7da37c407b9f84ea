"""What all models share: saving, loading without touching weights, thinking options."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ebt.errors import INSTALL, InputError
from ebt.files import digest, write_json
from ebt.models.exploration import Explored, explore
from ebt.models.thinking import Thinking, think
from ebt.thinking import Geometry, StepSize, Thought, Update

MODULE = "modeling_ebt"
"""The module that a saved folder carries: it imports this library, so that the folder itself holds no copy of the code."""
CHECKSUMS = "checksums.json"
"""The SHA-256 of each file of weights in a saved folder."""

_SHIM = '''"""Finds the model for ``transformers`` (``trust_remote_code=True``): its code is that of an installed package."""

try:
    from {0} import {2}
    from {1} import {3}
except ImportError as error:
    raise ImportError({4!r} + f" The import failed with: {{error}}") from error

__all__ = ["{2}", "{3}"]
'''


class HubModel(PreTrainedModel):
    """A model that Hugging Face saves and loads; a folder of it loads with ``trust_remote_code=True`` in any program."""

    auto_class: ClassVar[str] = "AutoModel"
    """The auto class that loads it."""

    _built = False

    def post_init(self) -> None:
        super().post_init()
        self._built = True

    def _init_weights(self, module: nn.Module) -> None:
        """Every module has initialised itself when it was built. Afterwards ``transformers`` asks for what a checkpoint lacks.

        Raises:
            InputError: weights are missing, which would otherwise be left to chance.
        """
        missing = [name for name, weight in module.named_parameters(recurse=False) if not hasattr(weight, "_is_hf_initialized")]
        if self._built and missing:
            where = next((name for name, other in self.named_modules() if other is module), "")
            raise InputError(f"the checkpoint lacks {'.'.join((where, missing[0]))}: load a complete one of this configuration")

    def save_pretrained(self, save_directory: str | PathLike[str], is_main_process: bool = True, **kwargs: Any) -> None:
        """Save configuration, weights, their checksums, and the module that finds the classes. ``ebt.problems.save_folder``
        does it atomically."""
        auto = {"AutoConfig": type(self.config), self.auto_class: type(self)}
        self.config.auto_map = {name: f"{MODULE}.{kind.__name__}" for name, kind in auto.items()}
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            folder = Path(save_directory)
            (folder / f"{MODULE}.py").write_text(self._shim(), encoding="utf-8")
            write_json({file.name: digest(file) for file in sorted(folder.glob("*.safetensors"))}, folder / CHECKSUMS)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in ``transformers``; the weights of a folder are compared with their checksums first, if it has any.

        Raises:
            InputError: weights are not those that were saved.
        """
        check_weights(Path(str(pretrained_model_name_or_path)) / kwargs.get("subfolder", ""))
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def _shim(cls) -> str:
        """The source of the module that a folder of this class carries; it names modules of the library by its front only."""
        homes = ["ebt.problems" if kind.__module__.startswith("ebt.") else kind.__module__ for kind in (cls.config_class, cls)]
        remedy = f"This model needs the package {homes[1].partition('.')[0]}. {INSTALL}"
        return _SHIM.format(*homes, cls.config_class.__name__, cls.__name__, remedy)

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do: a saved folder imports this library instead of carrying a copy of its source."""


def check_weights(folder: Path) -> None:
    """Compare the weights of a folder with the checksums in it; without any, nothing is compared.

    Raises:
        InputError: a file of weights is missing or not as it was saved, or the checksums cannot be read.
    """
    path = folder / CHECKSUMS
    if not path.is_file():
        return
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(sums, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): copy the folder again, or save the model again") from error
    for name, known in sums.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"{file} is missing, which {path} lists: copy the whole folder, or save the model again")
        if digest(file) != known:
            remedy = f"copy it again, or save the model again; if it was changed on purpose, remove {path}"
            raise InputError(f"{file} is damaged, its checksum is not the one in {CHECKSUMS}: {remedy}")


class ThinkingModel(HubModel):
    """A model that thinks: it has a learned step size, and a configuration that says how it thinks after training.

    A subclass implements ``landscape``, ``geometry``, ``parts`` and ``answer``; ``CONTEXT`` names the arguments of
    ``landscape`` and ``parts`` beside the context itself.
    """

    step_size: StepSize
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["step_size"]
    """In 16 bits its updates would be lost in rounding."""
    CONTEXT: ClassVar[tuple[str, ...]] = ()

    @property
    def thinking(self) -> Thinking:
        """How it thinks unless a call says otherwise; saved with the model."""
        return Thinking(**self.config.thinking)

    @thinking.setter
    def thinking(self, how: Thinking) -> None:
        self.config.thinking = asdict(how)

    def how(self, thinking: Thinking | None = None, **options: Any) -> Thinking:
        """How one call thinks: ``thinking``, or the model's own, with the options that are not None.

        Raises:
            InputError: an unknown option, a value of the wrong type or outside its range.
        """
        try:
            how = (self.thinking if thinking is None else thinking).but(**options)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.config.check_thinking(how)
        return how

    def landscape(self, *context: Any, **more: Any) -> Any:
        """The energy of candidates in a context."""
        raise NotImplementedError

    def geometry(self) -> Geometry:
        """Where candidates live."""
        raise NotImplementedError

    def update(self) -> Update:
        """How candidates move."""
        update: Update = self.config.make_update()
        return update

    def parts(self, *context: Any, **more: Any) -> tuple[int, ...]:
        """The shape (B, *P) of the predictions of a context."""
        raise NotImplementedError

    def answer(self, context: Any, thought: Thought, how: Thinking) -> Any:
        """What the final states say."""
        raise NotImplementedError

    def first(self, *context: Any, **more: Any) -> Tensor | None:
        """Where candidates start, (B, *P, K); None: at random."""
        return None

    def prepared(self, context: Any) -> Any:
        """The context as a batch, where it may be given otherwise."""
        return context

    def positions(self, *context: Any, **more: Any) -> Tensor | None:
        """Where predictions stand, (B, *P), for random draws that do not depend on what is computed together."""
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

        Args:
            context: what the model is given: tokens (B, S), puzzles (B, C), images (B, C, H, W), frames (B, S, E).
            thinking: how; the model's own by default.
            generator: draws starts and noise; by default they are a function of the seed, the candidate and the position alone.
            keep_path: record the state after every step, not the last alone.
            final_energy: evaluate the energies of the final states, too, by which winners are chosen.
            backend: ``plain`` or ``auto``, see ``ebt.thinking.descend``.
            options: fields of ``Thinking`` for this call, such as ``steps=16, candidates=8``, and what else belongs to the
                context (``CONTEXT``).

        Returns:
            the winners: ``answer``, ``energy`` at each step, ``path``; ``candidates`` is the record of all. Works under
            ``no_grad`` and ``inference_mode``.

        Raises:
            InputError: an option that there is not, or outside its range.
        """
        more = {name: options.pop(name) for name in self.CONTEXT if name in options}
        how, context = self.how(thinking, **options), self.prepared(context)
        with leave_inference_mode():
            bound = self._bind(context, how, more)
            thought = think(**bound, generator=generator, keep_path=keep_path, final_energy=final_energy, backend=backend)
            return replace(thought, shown=self.answer(context, thought, how))

    def _bind(self, context: Any, how: Thinking, more: dict[str, Any]) -> dict[str, Any]:
        """The arguments of ``think`` for a context."""
        return {
            "positions": self.positions(context, **more),  # before a cache takes the context in
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
        """Think about a context once, for all these numbers of steps and candidates (ascending); other arguments as
        ``think``."""
        more = {name: options.pop(name) for name in self.CONTEXT if name in options}
        how = self.how(thinking, **{**options, "steps": max(steps), "candidates": max(candidates)})
        with leave_inference_mode():
            bound, conditioned = self._bind(context, how, more), self.config.conditioning != "none"
            return explore(**bound, steps=steps, conditioned=conditioned)

    def predict(self, context: Any, thinking: Thinking | None = None, **options: Any) -> Any:
        """The answer of ``think``; arguments as there."""
        return self.think(context, thinking, **options).answer


@contextmanager
def leave_inference_mode() -> Iterator[None]:
    """Thinking needs gradients, which ``torch.inference_mode`` forbids for good: step out of it, without recording a graph."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


@dataclass
class Prediction(ModelOutput):
    """Output of the models of boards, images and frames."""

    prediction: Tensor | None = None
    """Completed boards (B, C), clean images (B, C, H, W), or the frames (B, S, E) that follow."""
    energies: Tensor | None = None
    """Of the winners, per prediction, before each step and of the final state, (T + 1, B, ...)."""
    steps: Tensor | None = None
    """Steps really taken, per prediction."""
