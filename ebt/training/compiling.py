"""``--compile``: compile the parts of a model that ``torch.compile`` supports."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import torch
import torch._dynamo
from torch._dynamo.utils import counters

from ebt.errors import InputError
from ebt.nn import EBTDecoder, EBTEncoder
from ebt.thinking.fast import central

NOTHING = """--compile has nothing to compile: it compiles a bidirectional EBT only with central differences and whole \
weights. Leave it out, or set recipe.second_order to central and trainer.strategy to auto or ddp."""
GRAPHS = 64
"""Largest number of graphs of one function: one for each shape and step index."""


class CompileWarning(UserWarning):
    """A part of a model could not be compiled and runs uncompiled."""


def compile_parts(model: Any, differences: bool = False) -> str:
    """Compile the parts of a model that are differentiated only once, in place, and return their names.

    In an autoregressive EBT, this is the context encoder, which runs once per batch; in a model that is feed-forward, looped or
    latent, all blocks. With central differences, it is also each evaluation of the energy with its gradients, as one graph.

    Args:
        model: The model.
        differences: Whether the model trains by central differences. Otherwise training differentiates the energy of
            candidates twice, which ``torch.compile`` does not support.

    Raises:
        InputError: No part of the model can be compiled, or the installed torch cannot compile gradients.
    """
    thinks = isinstance(model.network, (EBTDecoder, EBTEncoder))
    if differences and thinks:
        if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
            raise InputError(f"--compile with central differences needs a newer torch than {torch.__version__}: upgrade it.")
        model.network.passes = Passes()
    if isinstance(model.network, EBTEncoder) and model.network.latent:
        model.network.hidden = Compiled(model.network.hidden, "the blocks")  # type: ignore[method-assign]
        return "the blocks"
    if isinstance(model.network, EBTEncoder):
        if not differences:
            raise InputError(NOTHING)
        return "the energy"
    if isinstance(model.network, EBTDecoder):
        model.network.context = Compiled(model.network.context, "the context encoder")  # type: ignore[method-assign]
        return "the context encoder and the energy" if differences else "the context encoder"
    model.network.forward = Compiled(model.network.forward, "the blocks")
    return "the blocks"


def graphs(model: Any) -> int:
    """Number of graphs that were compiled for a model. It stays constant once all shapes and step indices have occurred."""
    parts = vars(model.network).values()
    compiled = [part for part in parts if isinstance(part, Compiled)]
    passes = [part for part in parts if isinstance(part, Passes)]
    return sum(part.graphs for part in (*compiled, *(each for found in passes for each in vars(found).values())))


class Compiled:
    """Compiles a function at its first call. If compilation fails, it warns and calls the original function from then on."""

    def __init__(self, function: Callable[..., Any], name: str, **options: Any) -> None:
        self.plain, self.name, self.graphs = function, name, 0
        self._fast: Callable[..., Any] | None = torch.compile(function, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._fast is not None:
            before = counters["stats"]["unique_graphs"]
            try:
                with torch._dynamo.config.patch(recompile_limit=GRAPHS):
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
            finally:
                self.graphs += counters["stats"]["unique_graphs"] - before
        return self.plain(*args, **kwargs)


class Passes:
    """Compiled evaluations of an energy, see ``ebt.thinking.fast.central.Passes``."""

    def __init__(self) -> None:
        options = {"fullgraph": True, "dynamic": False}
        self.first = Whole(central.first, "the energy with its gradient", **options)
        self.ends = Whole(central.ends, "the energy at nudged candidates", **options)
        self.hidden = Compiled(_hidden, "the blocks in the warm start", **options)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a function of the energy, which the copies of a model share


def _hidden(network: Any, *inputs: Any) -> Any:
    return network.hidden(*inputs)


class Whole(Compiled):
    """Compiles an evaluation of the energy together with its gradients."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            return super().__call__(*args, **kwargs)
