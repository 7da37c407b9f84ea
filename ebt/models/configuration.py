"""Model configurations, saved as ``config.json`` with the weights."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, fields
from functools import wraps
from typing import Any, ClassVar

import torch
from transformers import PretrainedConfig

from ebt.checks import check_range, check_type, type_hints
from ebt.errors import InputError
from ebt.models.thinking import SPACES, UPDATES, Thinking, named
from ebt.nn import PAPER, NetworkConfig, network_config
from ebt.thinking import Geometry, Gradient, Recipe, Update

THINKING = tuple(field.name for field in fields(Thinking))
_FLAGS = (
    "trust_remote_code output_attentions output_hidden_states return_dict torchscript use_bfloat16 tie_word_embeddings "
    "is_decoder is_encoder_decoder use_cache use_return_dict _output_attentions add_cross_attention"
)
_TEXTS = (
    "transformers_version tokenizer_reference tokenizer_class prefix problem_type model_type _commit_hash code_revision "
    "attn_implementation _attn_implementation _attn_implementation_internal experts_implementation _experts_implementation "
    "_experts_implementation_internal"
)
_NUMBERS = "bos_token_id eos_token_id pad_token_id sep_token_id num_labels cross_attention_hidden_size chunk_size_feed_forward"
FOREIGN: dict[str, Any] = {
    **dict.fromkeys(_FLAGS.split(), bool | None),
    **dict.fromkeys(_TEXTS.split(), str | None),
    **dict.fromkeys(_NUMBERS.split(), int | None),
    **dict.fromkeys(["auto_map", "id2label", "label2id", "task_specific_params", "pruned_heads"], dict[str, Any] | None),
    **dict.fromkeys(["dtype", "torch_dtype"], str | torch.dtype | None),
    **dict.fromkeys(["name_or_path", "_name_or_path"], Any),
    "architectures": list[Any] | None,
}
"""Types of the fields that current and earlier versions of ``transformers`` write."""
DTYPES = ("float64", "float32", "bfloat16", "float16")
LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("vocab_size", "context_length", "frame_dim"), (1, 2**31 - 1)),
    **dict.fromkeys(("image_size", "patch_size"), (1, 2**14)),
    **dict.fromkeys(("step_size", "energy_scale"), (1e-12, 1e12)),
    "num_labels": (0, 1000),
    "inner": (1, 1000),
    "noise_level": (1e-6, 1),
    "noise_levels": (21, 1_000_000),
}
"""Smallest and largest allowed value of each field. ``NetworkConfig`` and ``Thinking`` have their own."""
TWINS = ("conditioning", "conditioned_steps", "anchor", "head", "head_init", "scale_inputs")
"""Fields that models without an energy do not use."""


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise ``ValueError`` if a field has the wrong type or is outside its range."""
    check_type(name, value, hint)
    if name in LIMITS:
        check_range(name, value, *LIMITS[name])


def _typed(init: Callable[..., None]) -> Callable[..., None]:
    """Decorate a constructor to check the types and ranges of its arguments."""
    signature = inspect.signature(init)

    @wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        hints = type_hints(init)
        try:
            for name, value in signature.bind(self, *args, **kwargs).arguments.items():
                check_value(name, value, hints.get(name, Any))
        except ValueError as error:
            raise InputError(str(error)) from error
        init(self, *args, **kwargs)

    return checked


class NetworkFields(PretrainedConfig):
    """Fields of ``NetworkConfig``. ``size`` names a preset, whose values other fields override.

    Raises:
        InputError: If a field is unknown, unused by this model, of the wrong type or outside its range.
    """

    attribute_map: ClassVar = {
        "num_hidden_layers": "layers",
        "hidden_size": "dim",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
    }
    unused: ClassVar[tuple[str, ...]] = ()
    """Common fields that this model does not use. They keep their defaults."""

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
        for name, value in {**asdict(network), "ffn_dim": network.hidden, "kv_heads": network.groups}.items():
            setattr(self, name, value)
        unused = self.unused if network.conditioning != "none" else (*self.unused, "conditioned_steps")
        self.refuse(asdict(network), asdict(NetworkConfig()), unused)
        try:
            super().__init__(**kwargs)
        except (AttributeError, ImportError, TypeError, ValueError) as error:
            raise InputError(f"{', '.join(kwargs)}: {error}") from error

    def refuse(self, given: Mapping[str, Any], default: Mapping[str, Any], unused: Collection[str]) -> None:
        """Raise ``InputError`` if an unused field does not have its default value."""
        for name in given:
            if name in unused and given[name] != default[name]:
                raise InputError(
                    f"{name} is {given[name]!r}, but {type(self).__name__} does not use it with these settings: leave it out"
                )

    def _check(self, left: dict[str, Any]) -> None:
        """Raise ``ValueError`` if a remaining field is not one of ``transformers`` or is invalid."""
        if unknown := [name for name in left if name not in FOREIGN]:
            close = difflib.get_close_matches(unknown[0], [*vars(self), *vars(NetworkConfig()), *THINKING], 1)
            hint = f"did you mean {close[0]}?" if close else f"remove it from {type(self).__name__}"
            raise ValueError(f"there is no field {unknown[0]!r}: {hint}")
        for name, value in left.items():
            check_value(name, value, FOREIGN[name])
            if name in ("dtype", "torch_dtype") and value is not None and str(value).removeprefix("torch.") not in DTYPES:
                raise ValueError(f"{name} is {value!r}: choose one of {', '.join(DTYPES)}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Create a configuration from a saved one.

        Saved configurations hold ``ffn_dim``. One without it that names a size of the paper is of an earlier version, in which
        these sizes had the inner width of Llama 2.
        """
        size = config_dict.get("size")
        if isinstance(size, str) and size in PAPER and config_dict.get("ffn_dim") is None:
            config_dict = {**config_dict, "size": f"llama-{size}"}
        return super().from_dict(config_dict, **kwargs)

    def network(self) -> NetworkConfig:
        """The configuration of the blocks."""
        return NetworkConfig(**{field.name: getattr(self, field.name) for field in fields(NetworkConfig)})

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Do nothing, since saved folders import this library and hold no copy of its source."""


_FORMER = {"candidate_noise": "noise", "start_seed": "seed"}
"""Former names of thinking options, in configurations of earlier versions."""


class ThinkingFields(NetworkFields):
    """Fields of a model that thinks.

    Args:
        space: Candidate space by name (``ebt.models.thinking.SPACES``), or ``module.Class`` of your own geometry.
        update: Update by name (``ebt.models.thinking.UPDATES``) or ``module.Class``. Default: the update of the space.
        step_size: Step size alpha at the start of training.
        learn_step_size: Whether the step size is trained.
        energy_scale: Divisor of energies. Default: ``step_size``, so training does not depend on it. 1 leaves imported energies
            unchanged.
        input_gradient: Whether gradients reach the candidate table through views too.
        thinking: Default thinking options, as fields of ``Thinking``. They can also be passed as keyword arguments.
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
        self.thinking = self.think_with({**(thinking or {}), **options})
        try:
            if space not in self.spaces:
                named(space, {name: name for name in self.spaces}, "space", make=False)
            if update is not None:
                named(update, UPDATES, "update")
        except ValueError as error:
            raise InputError(str(error)) from error
        self.space, self.update, self.step_size, self.learn_step_size = space, update, step_size, learn_step_size
        self.energy_scale = step_size if energy_scale is None else energy_scale
        self.input_gradient = input_gradient
        self.refuse({"input_gradient": input_gradient}, {"input_gradient": True}, self.unused)
        super().__init__(**kwargs)

    def think_with(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the given thinking options with defaults.

        Raises:
            InputError: If an option is unknown, unused by this model, of the wrong type or outside its range.
        """
        try:
            how = Thinking(**options)
        except (TypeError, ValueError) as error:
            raise InputError(str(error)) from error
        self.check_thinking(how)
        return asdict(how)

    def check_thinking(self, how: Thinking) -> None:
        """Raise ``InputError`` if a thinking option is set that this model does not use."""
        self.refuse(asdict(how), asdict(Thinking()), self.unused)
        if how.rule == "mean" and "mean_from" in self.unused:
            raise InputError("rule is 'mean', which is for language models: choose another rule")

    def check_rows(self, recipe: Recipe) -> None:
        """Raise ``InputError`` if ``recipe.rows_at_once`` is set and the update has a memory."""
        if recipe.rows_at_once and self.make_update().begin(torch.zeros(1)) is not None:
            raise InputError(f"recipe.rows_at_once is for updates without a memory, but {self.update} has one: leave it out")

    def make_geometry(self, *args: Any, **kwargs: Any) -> Geometry:
        """The geometry of the candidate space. Arguments are those of its class."""
        kind: Any = self.spaces[self.space][0] if self.space in self.spaces else named(self.space, {}, "space", make=False)
        return kind(*args, **kwargs)

    def make_update(self) -> Update:
        """The update of candidates."""
        own = self.spaces[self.space][1] if self.space in self.spaces else Gradient()
        return own if self.update is None else named(self.update, UPDATES, "update")


def _option(name: str) -> property:
    """A property for a thinking option, so that ``from_pretrained(folder, steps=8)`` sets it."""

    def put(self: ThinkingFields, value: Any) -> None:
        self.thinking = self.think_with({**self.thinking, name: value})

    return property(lambda self: self.thinking[name], put)


for _name in THINKING:
    setattr(ThinkingFields, _name, _option(_name))
