"""Model configurations, saved as ``config.json`` beside the weights."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import wraps
from typing import Any, ClassVar, get_type_hints

from transformers import PretrainedConfig

from ebt.errors import InputError
from ebt.nn import NetworkConfig, network_config
from ebt.thinking import SPACES, UPDATES, Geometry, Gradient, Thinking, Update, named
from ebt.thinking.checks import check_type

THINKING = tuple(field.name for field in fields(Thinking))
OTHERS = (
    *("auto_map", "torch_dtype", "tokenizer_reference", "trust_remote_code", "code_revision", "name_or_path", "_commit_hash"),
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "output_attentions", "return_dict"),
    *("tokenizer_class", "prefix", "bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "task_specific_params"),
    *("torchscript", "pruned_heads", "use_bfloat16", "tie_word_embeddings", "is_decoder", "use_cache", "use_return_dict"),
    *("experts_implementation", "_experts_implementation_internal", "add_cross_attention", "cross_attention_hidden_size"),
)
"""Further fields of files, beside those of ``transformers``."""
FLOATS = ("float32", "float64", "bfloat16", "float16")
"""What weights may be saved in."""


def _typed(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor, whose arguments must have the types of its hints before it looks at them."""

    @wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        hints = get_type_hints(init)
        for name, value in inspect.signature(init).bind(self, *args, **kwargs).arguments.items():
            try:
                check_type(name, value, hints.get(name, Any))
            except ValueError as error:
                raise InputError(str(error)) from error
        init(self, *args, **kwargs)

    return checked


class NetworkFields(PretrainedConfig):
    """The fields of ``NetworkConfig``; ``size`` names a preset, any other field overrides it."""

    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "layers",
        "hidden_size": "dim",
        "num_attention_heads": "heads",
    }

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _typed(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, size: str = "micro", **kwargs: Any) -> None:
        given = {field.name: kwargs.pop(field.name) for field in fields(NetworkConfig) if field.name in kwargs}
        given |= {own: kwargs.pop(other) for other, own in NetworkFields.attribute_map.items() if other in kwargs}
        try:
            network = network_config(size, **given)
            self._check(kwargs)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.size = size
        for field in fields(NetworkConfig):
            setattr(self, field.name, network.hidden if field.name == "ffn_dim" else getattr(network, field.name))
        super().__init__(**kwargs)

    def _check(self, left: dict[str, Any]) -> None:
        """There are no further fields but those of ``transformers``.

        Raises:
            ValueError: naming the one.
        """
        known = {*vars(PretrainedConfig()), *PretrainedConfig().to_dict(), *OTHERS}
        if unknown := [name for name in left if name not in known]:
            close = difflib.get_close_matches(unknown[0], [*vars(self), *vars(NetworkConfig()), *THINKING], 1)
            hint = f"did you mean {close[0]}?" if close else f"{type(self).__name__} has no such field."
            raise ValueError(f"there is no field {unknown[0]!r}: {hint}")
        for name in {"dtype", "torch_dtype"} & left.keys():
            if left[name] is not None and str(left[name]).removeprefix("torch.") not in FLOATS:
                raise ValueError(f"{name} is {left[name]!r}: choose one of {', '.join(FLOATS)}")

    def network(self) -> NetworkConfig:
        """The configuration of the blocks."""
        return NetworkConfig(**{field.name: getattr(self, field.name) for field in fields(NetworkConfig)})

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: a saved folder imports this library instead of carrying a copy of its source."""


_FORMER = {"candidate_noise": "noise", "start_seed": "seed"}
"""Names of thinking options in configurations of earlier versions."""


class ThinkingFields(NetworkFields):
    """Fields of a model that thinks.

    Args:
        space: candidate space by name (``ebt.thinking.SPACES``), or ``module.Class`` of a geometry of your own.
        update: how candidates move, by name (``ebt.thinking.UPDATES``) or ``module.Class``; the space's own by default.
        step_size: alpha at the start of training.
        learn_step_size: whether it learns.
        energy_scale: what energies are divided by, the initial step size by default, so that training does not depend on it; 1
            leaves imported energies as they are.
        input_gradient: whether the candidates' table learns from what the network sees of candidates, too.
        thinking: how the model thinks unless a call says otherwise, fields of ``ebt.thinking.Thinking``; they may also be given
            beside the others.

    Raises:
        InputError: a value of the wrong type or outside its range, or an unknown field.
    """

    spaces: ClassVar[dict[str, tuple[type[Geometry], Update]]] = SPACES

    def __init__(
        self,
        space: str = "compact-restart",
        update: str | None = None,
        step_size: float = 1.0,
        learn_step_size: bool = True,
        energy_scale: float | None = None,
        input_gradient: bool = True,
        thinking: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        options = {_FORMER.get(name, name): kwargs.pop(name) for name in (*THINKING, *_FORMER) if name in kwargs}
        try:
            self.thinking = asdict(Thinking(**{**(thinking or {}), **options}))
            if space not in self.spaces:
                named(space, {name: name for name in self.spaces}, "space", make=False)
            if update is not None:
                named(update, UPDATES, "update")
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error
        for name, value in (("step_size", step_size), ("energy_scale", step_size if energy_scale is None else energy_scale)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise InputError(f"{name} is {value!r}: give a positive number")
        self.space, self.update, self.step_size, self.learn_step_size = space, update, step_size, learn_step_size
        self.energy_scale = step_size if energy_scale is None else energy_scale
        self.input_gradient = input_gradient
        super().__init__(**kwargs)

    def make_geometry(self, *args: Any, **kwargs: Any) -> Geometry:
        """The geometry of the candidate space; arguments as its class has them."""
        kind = self.spaces[self.space][0] if self.space in self.spaces else named(self.space, {}, "space", make=False)
        geometry: Geometry = kind(*args, **kwargs)
        return geometry

    def make_update(self) -> Update:
        """How candidates move."""
        if self.update is not None:
            update: Update = named(self.update, UPDATES, "update")
            return update
        return self.spaces[self.space][1] if self.space in self.spaces else Gradient()


def _option(name: str) -> property:
    """A thinking option as an attribute, so that ``from_pretrained(folder, steps=8)`` sets it."""

    def get(self: ThinkingFields) -> Any:
        return self.thinking[name]

    def put(self: ThinkingFields, value: Any) -> None:
        try:
            self.thinking = asdict(Thinking(**{**self.thinking, name: value}))
        except ValueError as error:
            raise InputError(str(error)) from error

    return property(get, put)


for _name in THINKING:
    setattr(ThinkingFields, _name, _option(_name))
