"""Configuration of a network, and sizes by name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ebt.checks import check_fields

Conditioning = Literal["none", "candidate", "prefix", "modulation"]
"""How the step index enters the network. none: not at all (one landscape). candidate: added to the candidate stream, so all
steps share one context. prefix: a learned token in front of the context (``time_embed`` in the published code). modulation:
adaptive norms in every block (``adaln`` there). With the last two, each step has its own context."""

BlockStyle = Literal["llama", "dit"]
"""llama: RMSNorm, SwiGLU, no biases (Llama 2). dit: LayerNorm without weights, GELU, biases (Diffusion Transformers)."""

Anchor = Literal["none", "token", "hidden"]
"""What is added to the candidate at the input of its stream. none: nothing (published code). token: the embedding of the last
observed token. hidden: the output of the observed stream at that token."""

Head = Literal["linear", "bilinear", "quadratic"]
"""How the energy is computed from the output of the blocks. linear: projection to a scalar (paper). bilinear: product with the
candidate. quadratic: the same without the last norm, so the gradient grows with the error without bound."""

HeadInit = Literal["zero", "xavier", "unit"]
"""Initial weights of the energy head. zero: training starts from a flat landscape. xavier: Xavier (published code). unit: the
plain product with the candidate, not for linear heads. The output of the blocks is then read as by the head of the feed-forward
twin, and the candidate table stays as small as the twin's."""

LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("dim", "heads", "kv_heads", "ffn_dim", "conditioned_steps"), (1, 2**17)),
    "layers": (1, 1024),
    "norm_eps": (1e-20, 1),
    "rope_theta": (1e-3, 1e12),
}
"""Smallest and largest allowed value of each field."""


@dataclass(frozen=True)
class NetworkConfig:
    """Configuration of a stack of transformer blocks.

    Raises:
        ValueError: If a field is invalid, or fields contradict each other.
    """

    layers: int = 4
    dim: int = 128
    heads: int = 4
    block: BlockStyle = "llama"
    ffn_dim: int | None = None
    """Inner width of the feed-forward layers. None: 8/3 of ``dim``, rounded up to a multiple of 16, for SwiGLU (Llama 2);
    4 x ``dim`` for GELU."""
    kv_heads: int | None = None
    """Number of heads of keys and values, each shared by as many heads of queries (grouped-query attention; Ainslie et al.
    2023). None: one for each head."""
    conditioning: Conditioning = "none"
    conditioned_steps: int = 1
    """Number of distinct step indices. Later steps use the last one."""
    anchor: Anchor = "none"
    head: Head = "linear"
    head_init: HeadInit = "zero"
    scale_inputs: bool = False
    """Multiply embeddings by ``sqrt(dim)`` at the input of the blocks. Tables can then be as small, and learn as fast, as
    output weights, while context and candidate match the scale of the blocks' outputs. Autoregressive networks only."""
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        check_fields(self, LIMITS)
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of 2 x heads ({2 * self.heads}): change dim or heads")
        if self.heads % (self.kv_heads or 1):
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads ({self.kv_heads}): change one of them")
        if self.head_init == "unit" and self.head == "linear":
            raise ValueError("head_init is 'unit', which a linear head does not support: choose head bilinear or quadratic")

    @property
    def hidden(self) -> int:
        """Inner width of the feed-forward layers."""
        return self.ffn_dim or (4 * self.dim if self.block == "dit" else -(-8 * self.dim // 3 // 16) * 16)

    @property
    def groups(self) -> int:
        """Number of heads of keys and values."""
        return self.kv_heads or self.heads

    @property
    def context_per_step(self) -> bool:
        """Whether the encoded context depends on the step index."""
        return self.conditioning in ("prefix", "modulation")


PAPER: dict[str, tuple[int, int, int]] = {
    "xxs": (6, 384, 6),
    "xs": (12, 384, 6),
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (24, 1536, 16),
    "xl": (24, 2048, 32),
}
"""Layers, dim and heads of the paper's sizes (table C.2). SwiGLU layers have an inner width of ``dim``."""
SIZES: dict[str, tuple[int, int, int]] = {
    "nano": (3, 64, 4),
    "micro": (4, 128, 4),
    **PAPER,
    **{f"llama-{name}": size for name, size in PAPER.items()},
}
"""Layers, dim and heads by name. nano and micro are for CPUs. They have the inner width of Llama 2, and so do llama-xxs to
llama-xl, which otherwise are the paper's sizes."""


def network_config(size: str, **overrides: object) -> NetworkConfig:
    """The configuration of a named size. ``overrides`` that are not None replace its fields.

    Raises:
        ValueError: If the size is unknown or a field is invalid.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}: choose one of {', '.join(SIZES)}")
    named = dict(zip(("layers", "dim", "heads"), SIZES[size], strict=True))
    given = {**named, **{key: value for key, value in overrides.items() if value is not None}}
    config = NetworkConfig(**given)  # type: ignore[arg-type]
    if size in PAPER and config.block == "llama" and config.ffn_dim is None:
        return replace(config, ffn_dim=config.dim)
    return config
