"""Build this library's models with weights of the published code. Energies, candidates and gradients are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ebt.errors import InputError
from ebt.interop.reference import settings
from ebt.interop.reference.settings import Settings
from ebt.interop.reference.weights import count_layers, load, take
from ebt.models.base import HubModel
from ebt.problems.images.configuration import DiTImagesConfig, EBTImagesConfig
from ebt.problems.images.models import DiTForImages, EBTForImages
from ebt.problems.language.configuration import EBTConfig, TransformerPPConfig
from ebt.problems.language.ebt import EBTForCausalLM
from ebt.problems.language.transformer_pp import TransformerPPForCausalLM
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.problems.video.models import EBTForVideo, VideoTransformer

State = Mapping[str, Tensor]
Fields = dict[str, Any]

_ENCODER = "image_encoder."
"""Prefix of the frozen encoder in checkpoints of video models, which is not part of this library's models."""


def convert(hparams: Settings, state: State) -> HubModel:
    """Build the model of a checkpoint, in the precision of its weights.

    Args:
        hparams: Hyper-parameters of the checkpoint.
        state: Weights under their published names, without the trainer's prefix.

    Raises:
        InputError: A weight or hyper-parameter, which the message names, is missing, unknown or not supported.
    """
    settings.require(hparams, settings.REQUIRED)
    modality, name = hparams["modality"], hparams["model_name"]
    if name == "ebt":
        settings.require(hparams, settings.THINKING)
    for key, index in (("modality", 0), ("model_name", 1)):
        if hparams[key] not in (choices := list(dict.fromkeys(pair[index] for pair in _MODELS))):
            raise InputError(
                f"the hyper-parameter {key} = {hparams[key]!r} is not supported: it must be one of {', '.join(choices)}"
            )
    if (modality, name) not in _MODELS:
        raise InputError(f"there is no model model_name = {name!r} in modality = {modality!r}: give an unmodified checkpoint")
    kind, config, fields = _MODELS[modality, name]
    if modality == "VID":
        state = {key: value for key, value in state.items() if not key.startswith(_ENCODER)}
    thinking = settings.thinking(hparams, state) if name == "ebt" else {}
    model = kind(config(**thinking | fields(hparams, state)))
    load(model.to(next(iter(state.values())).dtype), state)
    return model.eval()


def _size(state: State, name: str, axis: int = 0) -> int:
    """Return the size of a weight.

    Raises:
        InputError: The weight is missing.
    """
    return take(state, name).shape[axis]


def _causal(hparams: Settings, state: State) -> Fields:
    """Return size, blocks and conditioning of an autoregressive network."""
    layers, ffn_dim = count_layers(state), _size(state, "transformer.layers.0.feed_forward.w1.weight")
    fields = settings.network(hparams, layers, ffn_dim)
    return fields | (settings.conditioning(hparams) if hparams["model_name"] == "ebt" else {})


def _text(hparams: Settings, state: State) -> Fields:
    fields = _causal(hparams, state) | {"vocab_size": _size(state, "embeddings.weight")}
    if hparams["model_name"] == "ebt":
        fields["space"] = "reference" if hparams["normalize_initial_condition"] else "free"
        fields["tied_candidates"] = bool(hparams["vocab_to_embed_uses_prob_dist"])
        fields["input_gradient"] = True
    return fields


def _video(hparams: Settings, state: State) -> Fields:
    fields, down = _causal(hparams, state), "encoder_down_projection.weight"
    fields["frame_dim"] = _size(state, down, 1) if down in state else fields["dim"]
    if hparams["model_name"] == "ebt":
        fields |= {"space": "euclidean", "tied_candidates": True, "noise_in": "view"}
    return fields


def _image(hparams: Settings, state: State) -> Fields:
    settings.require(hparams, settings.IMAGES)
    prefix = "diffusion_transformer" if hparams["model_name"] == "dit" else "transformer"
    size = {int(side) for side in hparams["image_dims"]}
    if len(size) > 1:
        raise InputError(f"the hyper-parameter image_dims is {hparams['image_dims']}: only square images are supported")
    fields: Fields = {
        "num_channels": _size(state, f"{prefix}.x_embedder.proj.weight", 1),
        "image_size": size.pop(),
        "patch_size": hparams["patch_size"],
        "layers": hparams["num_transformer_blocks"],
        "dim": hparams["embedding_dim"],
        "heads": hparams["multiheaded_attention_heads"],
        "ffn_dim": _size(state, f"{prefix}.blocks.0.mlp.fc1.weight"),
        "noise_level": hparams["denoise_images_noise_level"],
    }
    if hparams["model_name"] == "dit":
        return fields | {"noise_levels": settings.noise_levels(hparams)}
    return fields | {"energy_scale": float((fields["image_size"] // fields["patch_size"]) ** 2)}


_MODELS: dict[tuple[str, str], tuple[type[Any], type[Any], Callable[[Settings, State], Fields]]] = {
    ("NLP", "ebt"): (EBTForCausalLM, EBTConfig, _text),
    ("NLP", "baseline_transformer"): (TransformerPPForCausalLM, TransformerPPConfig, _text),
    ("VID", "ebt"): (EBTForVideo, EBTVideoConfig, _video),
    ("VID", "baseline_transformer"): (VideoTransformer, VideoTransformerConfig, _video),
    ("IMG", "ebt"): (EBTForImages, EBTImagesConfig, _image),
    ("IMG", "dit"): (DiTForImages, DiTImagesConfig, _image),
}
"""Model, configuration and its fields by ``modality`` and ``model_name``."""
