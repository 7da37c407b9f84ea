"""``--compile``: what of a model torch can compile, and what happens if it cannot."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from ebt.errors import InputError
from ebt.nn import EBTDecoder, EBTEncoder

NOTHING = """--compile has nothing to compile: each pass of a bidirectional EBT is differentiated twice, which torch.compile \
refuses. Leave it out."""


class CompileWarning(UserWarning):
    """A part of a model could not be compiled and runs as it is."""


def compile_parts(model: Any) -> str:
    """Compile what is differentiated once only, in place; returns what that is.

    Of an autoregressive EBT that is the observed stream, which is encoded once a batch; of a feed-forward or looped model, all
    blocks. The energy of candidates is differentiated twice in training, which ``torch.compile`` refuses.

    Raises:
        InputError: nothing of this model can be compiled.
    """
    if isinstance(model.network, EBTEncoder):
        raise InputError(NOTHING)
    if isinstance(model.network, EBTDecoder):
        model.network.context = Compiled(model.network.context, "the context encoder")  # type: ignore[method-assign]
        return "the context encoder"
    model.network.forward = Compiled(model.network.forward, "the blocks")
    return "the blocks"


class Compiled:
    """A function compiled at its first call; if that fails, it warns and calls the function as it is from then on."""

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
                    f"--compile failed: {self.name} runs uncompiled, more slowly and with the same results. ({reason})",
                    CompileWarning,
                    stacklevel=2,
                )
                self._fast = None
        return self.plain(*args, **kwargs)
