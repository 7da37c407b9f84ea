"""What all models share: saving, loading without touching weights, thinking options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ebt.errors import INSTALL, InputError
from ebt.thinking import Descent, StepSize

MODULE = "modeling_ebt"
"""The module that a saved folder carries: it imports this library, so that the folder itself holds no copy of the code."""

_SHIM = '''"""Finds the model for ``transformers`` (``trust_remote_code=True``): its code is that of an installed package."""

try:
    from {configuration} import {config_class}
    from {module} import {model_class}
except ImportError as error:
    raise ImportError({remedy!r} + f" The import failed with: {{error}}") from error

__all__ = ["{config_class}", "{model_class}"]
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
        """Save configuration, weights and the module that finds the classes. ``ebt.hub.save_folder`` does it atomically."""
        config_class, model_class = type(self.config).__name__, type(self).__name__
        self.config.auto_map = {"AutoConfig": f"{MODULE}.{config_class}", self.auto_class: f"{MODULE}.{model_class}"}
        super().save_pretrained(save_directory, is_main_process, **kwargs)
        if is_main_process:
            (Path(save_directory) / f"{MODULE}.py").write_text(self._shim(), encoding="utf-8")

    @classmethod
    def _shim(cls) -> str:
        """The source of the module that a folder of this class carries; it names modules of the library by its front only."""
        homes = ["ebt.problems" if kind.__module__.startswith("ebt.") else kind.__module__ for kind in (cls.config_class, cls)]
        remedy = f"This model needs the package {homes[1].partition('.')[0]}. {INSTALL}"
        return _SHIM.format(
            configuration=homes[0],
            config_class=cls.config_class.__name__,
            module=homes[1],
            model_class=cls.__name__,
            remedy=remedy,
        )

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing to do: a saved folder imports this library instead of carrying a copy of its source."""


class ThinkingModel(HubModel):
    """A model that thinks: it has a learned step size, and a configuration that says how it thinks after training."""

    step_size: StepSize
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = ["step_size"]
    """In 16 bits its updates would be lost in rounding."""

    def alpha(self) -> Tensor:
        """The step size of thinking after training."""
        return self.step_size() * self.config.step_size_scale

    def descent(
        self,
        rows: int,
        steps: int | None,
        candidates: int | None,
        tolerance: float | None,
        noise: float | None,
        keep_states: bool = True,
    ) -> tuple[Descent, int]:
        """How one call about so many rows thinks, and with how many candidates; what is None is the configuration's.

        Raises:
            InputError: fewer than one step or candidate.
        """
        steps, candidates = thinking_options(self.config, steps, candidates)
        std = self.noise(rows, candidates) if noise is None else noise
        clamp = self.config.clamp
        how = Descent(steps, noise=std, clamp=clamp, tolerance=tolerance, final_energy=True, keep_states=keep_states)
        return how, candidates

    def noise(self, rows: int, candidates: int) -> Tensor:
        """The Langevin noise of each of M x B rows: none for the first candidate of each context, which thinks as one alone
        does; the configuration's for the others, which explore."""
        noise = torch.full((candidates, rows), float(self.config.candidate_noise))
        noise[0] = 0
        return noise.flatten()


@contextmanager
def leave_inference_mode() -> Iterator[None]:
    """Thinking needs gradients, which ``torch.inference_mode`` forbids for good: step out of it, without recording a graph."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.no_grad():
        yield


def thinking_options(config: Any, steps: int | None, candidates: int | None) -> tuple[int, int]:
    """Steps and candidates of one call: those of the configuration unless given.

    Raises:
        InputError: fewer than one.
    """
    steps = config.steps if steps is None else steps
    candidates = config.candidates if candidates is None else candidates
    if steps < 1 or candidates < 1:
        raise InputError(f"steps {steps}, candidates {candidates}: thinking needs at least 1 of each")
    return steps, candidates
