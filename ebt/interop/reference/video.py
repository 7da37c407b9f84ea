"""The published video models, on the vectors of their frozen encoder: EBT and Transformer++."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ebt.interop.reference import names, settings
from ebt.interop.reference.recorded import Case, Draws, Tensors, report, rerun
from ebt.problems.video.configuration import EBTVideoConfig, VideoTransformerConfig
from ebt.problems.video.models import EBTForVideo, VideoTransformer

ENCODER = "image_encoder."


def convert(hparams: settings.Settings, state: Mapping[str, Tensor]) -> EBTForVideo | VideoTransformer:
    """A video model with the published weights, in their precision. The frozen encoder stays outside.

    Raises:
        InputError: naming a weight or hyper-parameter that is missing, unknown, or has no equal here.
    """
    state = {name: value for name, value in state.items() if not name.startswith(ENCODER)}
    layers = names.count_layers(state)
    ffn_dim = len(state.get("transformer.layers.0.feed_forward.w1.weight", ()))
    fields = settings.network(hparams, layers, ffn_dim)
    down = state.get("encoder_down_projection.weight")
    fields["frame_dim"] = fields["dim"] if down is None else down.shape[1]
    if hparams["model_name"] == "baseline_transformer":
        twin = VideoTransformer(VideoTransformerConfig(**fields))
        names.load(twin, state, weights(twin))
        return twin
    fields |= settings.conditioning(hparams) | settings.thinking(hparams, state)
    model = EBTForVideo(EBTVideoConfig(**fields, space="euclidean", tied_candidates=True, noise_in="view"))
    names.load(model, state, weights(model), unused=[names.NOISE_STD])
    return model


def weights(model: EBTForVideo | VideoTransformer) -> list[names.Weight]:
    """The names of all its weights."""
    config, before = model.config, [] if model.projection is None else names.projection()
    if isinstance(model, VideoTransformer):
        return [*before, *names.transformer_weights(config.layers)]
    return [*before, *names.decoder_weights(config.layers, config.conditioning)]


def recompute(case: Case, run: str, draws: Draws, wanted: Collection[str]) -> Iterator[Tensors]:
    """All that a run recorded, by its recorded names."""
    frames = case.inputs["embeddings"].to(case.dtype)
    model = _model(case)
    if isinstance(model, VideoTransformer):
        yield _baseline(model, frames, wanted)
        return
    given = case.inputs["initial_prediction"].to(case.dtype)
    outcome = rerun(case, run, draws, model, model.landscape(frames[:, :-1]), given, frames[:, 1:])
    yield {**report(outcome, "prediction"), **_gradients(model)}


def _model(case: Case) -> Any:
    return convert(case.hparams, case.cast(case.weights)).requires_grad_()


def _baseline(model: VideoTransformer, frames: Tensor, wanted: Collection[str]) -> Tensors:
    """Its one tensor beside loss and gradients is the prediction, whatever the record calls it."""
    prediction = model(frames[:, :-1])
    loss = F.smooth_l1_loss(prediction, frames[:, 1:])
    loss.backward()
    found = {"loss": loss, **_gradients(model)}
    return {**{name: prediction for name in wanted if name not in found and not name.startswith("grad.")}, **found}


def _gradients(model: EBTForVideo | VideoTransformer) -> Tensors:
    return {f"grad.{name}": gradient for name, gradient in names.gradients(model, weights(model)).items()}
