"""Model configurations, saved as ``config.json`` beside the weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import Any, ClassVar

from transformers import PretrainedConfig

from ebt.errors import InputError
from ebt.nn import NetworkConfig, network_config
from ebt.thinking import SIMPLEX_SPACES, Recipe

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}
"""Rows and columns of a box, by board size."""


class _NetworkFields(PretrainedConfig):
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


class _ThinkingFields(_NetworkFields):
    """Fields of a model that thinks.

    space: candidate space by name (``ebt.thinking.SIMPLEX_SPACES``). step_size: alpha at the start of training.
    start_std: standard deviation of the starting candidates. start_seed: which starts it thinks from (see ``ebt.hub.starts``).
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


class EBTConfig(_ThinkingFields):
    """Autoregressive EBT for text: ``vocab_size`` words, trained on contexts of ``context_length`` tokens.

    ``tied_candidates``: candidates are embedded by the table of the observed tokens, not by one of their own. ``mean_from``:
    the first step that counts in means (``ebt.thinking.mean``), the lowest trained number of steps. ``recipe`` holds
    fields of ``ebt.thinking.Recipe`` for training through ``forward(labels=...)``, as ``transformers.Trainer``
    does; what it leaves out is as in ``Recipe()``, with starts as in inference.
    """

    model_type = "ebt"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["energies", "steps", "past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {**_NetworkFields.attribute_map, "max_position_embeddings": "context_length"}

    def __init__(
        self,
        vocab_size: int = 257,
        context_length: int = 256,
        recipe: dict[str, Any] | None = None,
        tied_candidates: bool = False,
        anchor: str = "hidden",
        head: str = "bilinear",
        scale_inputs: bool = True,
        mean_from: int = 1,
        **kwargs: Any,
    ) -> None:
        _check_text_sizes(vocab_size, context_length)
        if mean_from < 1:
            raise InputError(f"mean_from is {mean_from}: the first step that counts is 1 or a later one")
        self.mean_from = mean_from
        self.vocab_size, self.context_length, self.recipe = vocab_size, context_length, recipe
        self.tied_candidates = tied_candidates
        super().__init__(anchor=anchor, head=head, scale_inputs=scale_inputs, **kwargs)
        self.training_recipe()

    def training_recipe(self) -> Recipe:
        """The recipe of ``forward(labels=...)``.

        Raises:
            InputError: fields that a recipe does not have, or that contradict each other, or a replay buffer or a warm start.
        """
        try:
            recipe = Recipe(**{"start_std": self.start_std, **(self.recipe or {})})
        except (TypeError, ValueError) as error:
            raise InputError(f"recipe {self.recipe}: {error}") from error
        if recipe.warm_start:
            raise InputError(
                f"recipe has warm_start {recipe.warm_start}: a model alone does not know how far its training is. Set it to 0, "
                "or train with `ebt fit`."
            )
        if recipe.replay_size:
            raise InputError(
                f"recipe has replay_size {recipe.replay_size}: a model alone keeps no replay buffer. Set replay_size and "
                "replay_fraction to 0, or train with `ebt fit`."
            )
        return recipe


class TransformerPPConfig(_NetworkFields):
    """Transformer++, the feed-forward twin of ``EBTConfig``."""

    model_type = "ebt_transformer_pp"
    attribute_map = EBTConfig.attribute_map

    def __init__(self, vocab_size: int = 257, context_length: int = 256, **kwargs: Any) -> None:
        _check_text_sizes(vocab_size, context_length)
        self.vocab_size, self.context_length = vocab_size, context_length
        super().__init__(**kwargs)


class EBTSudokuConfig(_ThinkingFields):
    """Bidirectional EBT over the cells of a board of ``board`` x ``board``.

    ``rules``: attention knows which cells share a row, a column or a box (see ``ebt.nn.blocks.Relations``).
    """

    model_type = "ebt_sudoku"

    def __init__(self, board: int = 6, space: str = "restart", rules: bool = False, **kwargs: Any) -> None:
        _check_board(board)
        self.board, self.rules = board, rules
        super().__init__(space=space, **kwargs)


class SudokuTransformerConfig(_NetworkFields):
    """The rivals of ``EBTSudokuConfig``: ``loop`` none (feed-forward), prediction (fed back), hidden (state carried) or
    recursive (an answer and a latent state in turns, ``inner`` updates of the latter for each of the former); ``rules`` as
    there."""

    model_type = "ebt_sudoku_transformer"

    def __init__(self, board: int = 6, loop: str = "none", inner: int = 6, rules: bool = False, **kwargs: Any) -> None:
        if loop not in ("none", "prediction", "hidden", "recursive"):
            raise InputError(f"loop is {loop!r}: choose one of none, prediction, hidden, recursive")
        if inner < 1:
            raise InputError(f"inner is {inner}: give at least 1 update of the latent state")
        _check_board(board)
        self.board, self.loop, self.inner, self.rules = board, loop, inner, rules
        super().__init__(**kwargs)


class EBTVideoConfig(_ThinkingFields):
    """Continuous autoregressive EBT over frames of ``frame_dim`` numbers, those of a frozen encoder.

    Where ``frame_dim`` is not ``dim``, a linear map takes frames to the network; candidates have one of their own, unless they
    are ``tied_candidates``. ``space``: restart or euclidean (``ebt.thinking.RestartProjected``, ``Projected``). ``noise_in``:
    whether Langevin noise moves the candidate (state) or only what the network sees of it (view, as in the published code).
    ``encoding``: how frames are made of pictures (``encoder``, ``size``, ``channels``, ``seconds`` between them, see
    ``ebt.data.encoders``), where that is known.
    """

    model_type = "ebt_video"
    spaces = ("restart", "euclidean")

    def __init__(
        self,
        frame_dim: int = 768,
        context_length: int = 16,
        noise_in: str = "state",
        space: str = "restart",
        tied_candidates: bool = False,
        encoding: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        _check_frames(frame_dim, context_length)
        if noise_in not in ("state", "view"):
            raise InputError(f"noise_in is {noise_in!r}: choose state or view")
        self.frame_dim, self.context_length, self.noise_in = frame_dim, context_length, noise_in
        self.encoding, self.tied_candidates = encoding, tied_candidates
        super().__init__(space=space, **kwargs)


class VideoTransformerConfig(_NetworkFields):
    """Transformer++ over frames, the feed-forward twin of ``EBTVideoConfig``."""

    model_type = "ebt_video_transformer"

    def __init__(
        self, frame_dim: int = 768, context_length: int = 16, encoding: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        _check_frames(frame_dim, context_length)
        self.frame_dim, self.context_length, self.encoding = frame_dim, context_length, encoding
        super().__init__(**kwargs)


def _check_frames(frame_dim: int, context_length: int) -> None:
    if frame_dim < 1 or context_length < 1:
        raise InputError(f"frame_dim {frame_dim}, context_length {context_length}: both must be at least 1")


class _ImageFields(PretrainedConfig):
    """Fields of a model of square images, cut into patches, with the blocks of Diffusion Transformers."""

    def __init__(
        self,
        num_channels: int = 3,
        image_size: int = 64,
        patch_size: int = 8,
        block: str = "dit",
        conditioning: str = "modulation",
        norm_eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        if num_channels not in (1, 3) or patch_size < 1 or image_size < patch_size or image_size % patch_size:
            raise InputError(
                f"num_channels {num_channels}, image_size {image_size}, patch_size {patch_size}: "
                "images have 1 or 3 channels and a size that patches divide"
            )
        self.num_channels, self.image_size, self.patch_size = num_channels, image_size, patch_size
        super().__init__(block=block, conditioning=conditioning, norm_eps=norm_eps, **kwargs)
        if self.dim % 4:
            raise InputError(f"dim {self.dim} must be a multiple of 4: positions are sines and cosines of rows and columns")

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class EBTImagesConfig(_ImageFields, _ThinkingFields):
    """Bidirectional EBT over images of ``image_size`` x ``image_size`` pixels.

    ``noise_level``: the share of the noise schedule that it was trained to remove.
    """

    model_type = "ebt_images"
    spaces = ("euclidean",)

    def __init__(self, noise_level: float = 0.1, space: str = "euclidean", **kwargs: Any) -> None:
        _check_noise_level(noise_level)
        self.noise_level = noise_level
        super().__init__(space=space, **kwargs)


class DiTImagesConfig(_ImageFields, _NetworkFields):
    """Diffusion Transformer, the rival of ``EBTImagesConfig``, over ``noise_levels`` levels of a linear schedule.

    ``noise_level``: it was trained on the levels up to this share of the schedule.
    """

    model_type = "ebt_dit_images"

    def __init__(self, noise_level: float = 0.1, noise_levels: int = 1000, **kwargs: Any) -> None:
        _check_noise_level(noise_level)
        if noise_levels < 21:
            raise InputError(f"noise_levels {noise_levels}: the linear schedule needs at least 21")
        self.noise_level, self.noise_levels = noise_level, noise_levels
        super().__init__(**kwargs)


def _check_noise_level(noise_level: float) -> None:
    if not 0 < noise_level <= 1:
        raise InputError(f"noise_level is {noise_level}: give a share of the noise schedule, above 0 and at most 1")


def _check_text_sizes(vocab_size: int, context_length: int) -> None:
    if vocab_size < 1 or context_length < 1:
        raise InputError(f"vocab_size {vocab_size}, context_length {context_length}: both must be at least 1")


def _check_board(board: int) -> None:
    if board not in BOXES:
        raise InputError(f"board is {board}: choose one of {', '.join(map(str, BOXES))}")
