"""``--compile``: compile the parts of a model that ``torch.compile`` supports."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from ebt.errors import InputError
from ebt.nn import EBTDecoder, EBTEncoder

NOTHING = """--compile has nothing to compile: each pass of a bidirectional EBT is differentiated twice, which torch.compile \
does not support. Leave it out."""


class CompileWarning(UserWarning):
    """A part of a model could not be compiled and runs uncompiled."""


def compile_parts(model: Any) -> str:
    """Compile the parts of a model that are differentiated only once, in place, and return their name.

    In an autoregressive EBT, this is the context encoder, which runs once per batch. In a feed-forward or looped model, it is
    all blocks. Training differentiates the energy of candidates twice, which ``torch.compile`` does not support.

    Raises:
        InputError: No part of the model can be compiled.
    """
    if isinstance(model.network, EBTEncoder):
        raise InputError(NOTHING)
    if isinstance(model.network, EBTDecoder):
        model.network.context = Compiled(model.network.context, "the context encoder")  # type: ignore[method-assign]
        return "the context encoder"
    model.network.forward = Compiled(model.network.forward, "the blocks")
    return "the blocks"


class Compiled:
    """Compiles a function at its first call. If compilation fails, it warns and calls the original function from then on."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.plain, self.name = function, name
        self._fast: Callable[..., Any] | None = torch.compile(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fast is not None:
            try:
                return self._fast(*args, **kwargs)
            except Exception as error:
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                reason = str(error).strip().splitlines()[0]
                warnings.warn(
                    f"--compile failed: {self.name} runs uncompiled, slower but with the same results. ({reason})",
                    CompileWarning,
                    stacklevel=2,
                )
                self._fast = None
        return self.plain(*args, **kwargs)
