"""Model configurations, saved as ``config.json`` beside the weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any, ClassVar

from transformers import PretrainedConfig

from ebt.errors import InputError
from ebt.nn import NetworkConfig, network_config
from ebt.thinking import SIMPLEX_SPACES


class NetworkFields(PretrainedConfig):
    """The fields of ``NetworkConfig``; ``size`` names a preset, any other field overrides it."""

    attribute_map: ClassVar[dict[str, str]] = {
        "num_hidden_layers": "layers",
        "hidden_size": "dim",
        "num_attention_heads": "heads",
    }

    def __init__(
        self,
        size: str = "micro",
        layers: int | None = None,
        dim: int | None = None,
        heads: int | None = None,
        block: str | None = None,
        ffn_dim: int | None = None,
        conditioning: str | None = None,
        conditioned_steps: int | None = None,
        anchor: str | None = None,
        head: str | None = None,
        head_init: str | None = None,
        scale_inputs: bool | None = None,
        norm_eps: float | None = None,
        rope_theta: float | None = None,
        **kwargs: Any,
    ) -> None:
        given = {
            "layers": layers,
            "dim": dim,
            "heads": heads,
            "block": block,
            "ffn_dim": ffn_dim,
            "conditioning": conditioning,
            "conditioned_steps": conditioned_steps,
            "anchor": anchor,
            "head": head,
            "head_init": head_init,
            "scale_inputs": scale_inputs,
            "norm_eps": norm_eps,
            "rope_theta": rope_theta,
        }
        try:
            network = network_config(size, **given)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.size = size
        for field in fields(NetworkConfig):
            setattr(self, field.name, network.hidden if field.name == "ffn_dim" else getattr(network, field.name))
        super().__init__(**kwargs)

    def network(self) -> NetworkConfig:
        """The configuration of the blocks."""
        return NetworkConfig(**{field.name: getattr(self, field.name) for field in fields(NetworkConfig)})

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoConfig") -> None:
        """Nothing to do: a saved folder imports this library instead of carrying a copy of its source."""


class ThinkingFields(NetworkFields):
    """Fields of a model that thinks.

    space: candidate space by name (``ebt.thinking.SIMPLEX_SPACES``). step_size: alpha at the start of training.
    start_std: standard deviation of the starting candidates. start_seed: which starts it thinks from (``ebt.models.starts``).
    steps, candidates: how it thinks unless a call says otherwise. step_size_scale: alpha of thinking as a multiple of the
    learned one; a smaller one commits later. candidate_noise: Langevin noise of all candidates but the first, so that they
    differ. clamp: largest absolute entry of the descent direction. energy_scale: what energies are divided by, the initial step
    size by default, so that training does not depend on it; 1 leaves imported energies as they are. input_gradient: whether the
    candidates' table learns from what the network sees of candidates, too, not from losses alone.
    """

    spaces: ClassVar[Collection[str]] = tuple(SIMPLEX_SPACES)

    def __init__(
        self,
        space: str = "compact-restart",
        step_size: float = 1.0,
        learn_step_size: bool = True,
        start_std: float = 1.0,
        start_seed: int = 0,
        steps: int = 3,
        candidates: int = 1,
        step_size_scale: float = 1.0,
        candidate_noise: float = 0.0,
        clamp: float | None = None,
        energy_scale: float | None = None,
        input_gradient: bool = True,
        **kwargs: Any,
    ) -> None:
        if space not in self.spaces:
            raise InputError(f"space is {space!r}: choose one of {', '.join(self.spaces)}")
        if steps < 1 or candidates < 1 or start_std < 0 or step_size <= 0:
            raise InputError(
                f"steps {steps}, candidates {candidates}, start_std {start_std}, step_size {step_size}: "
                "steps and candidates must be at least 1, start_std at least 0, step_size positive"
            )
        if step_size_scale <= 0 or candidate_noise < 0:
            raise InputError(
                f"step_size_scale {step_size_scale}, candidate_noise {candidate_noise}: "
                "the scale must be positive, the noise at least 0"
            )
        if (clamp is not None and clamp <= 0) or (energy_scale is not None and energy_scale <= 0):
            raise InputError(f"clamp {clamp}, energy_scale {energy_scale}: give positive numbers, or null")
        self.step_size_scale, self.candidate_noise, self.clamp = step_size_scale, candidate_noise, clamp
        self.input_gradient = input_gradient
        self.space, self.step_size, self.learn_step_size, self.start_std = space, step_size, learn_step_size, start_std
        self.start_seed, self.steps, self.candidates = start_seed, steps, candidates
        self.energy_scale = step_size if energy_scale is None else energy_scale
        super().__init__(**kwargs)
