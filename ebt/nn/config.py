"""The size of a network, and the paper's sizes by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ebt.nn.checks import check_fields

Conditioning = Literal["none", "candidate", "prefix", "modulation"]
"""How the network learns the step index: not at all (one landscape); added to the candidate stream, which leaves the context
shared by all steps; as a learned token in front of the context (the published code's ``time_embed``); or by adaptive norms
in every block (its ``adaln``). The last two make one context a step."""

BlockStyle = Literal["llama", "dit"]
"""RMSNorm, SwiGLU, no biases, as in Llama 2; or LayerNorm without weights, GELU, biases, as in Diffusion Transformers."""

Anchor = Literal["none", "token", "hidden"]
"""What a prediction's stream starts from besides its candidate: nothing, as in the published code, so that it must fetch even
the last observed token by attention; that token's embedding; or the observed stream's output there."""

Head = Literal["linear", "bilinear", "quadratic"]
"""How an energy is read off the blocks' output: by a projection to one number, as in the paper; by its agreement with the
candidate; or the same without the last norm, so that its gradient grows with what is wrong, however large that is."""

HeadInit = Literal["zero", "xavier", "unit"]
"""The first weights of the energy head: zero, so that training starts flat; Xavier's, as in the published code; or, for heads
that are a product with the candidate, that product itself: what the blocks make of a context is then read as by the head of the
feed-forward twin, and the candidates' table stays as small as the twin's."""

LIMITS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("dim", "heads", "ffn_dim", "conditioned_steps"), (1, 2**17)),
    "layers": (1, 1024),
    "norm_eps": (1e-20, 1),
    "rope_theta": (1e-3, 1e12),
}
"""The least and the largest value of each number."""


@dataclass(frozen=True)
class NetworkConfig:
    """A stack of transformer blocks.

    Raises:
        ValueError: sizes that contradict each other.
    """

    layers: int = 4
    dim: int = 128
    heads: int = 4
    block: BlockStyle = "llama"
    ffn_dim: int | None = None
    """Inner width of the feed-forward layers, where it is given; else 8/3 of ``dim``, rounded up to a multiple of 16, for
    SwiGLU, and 4 x ``dim`` for GELU."""
    conditioning: Conditioning = "none"
    conditioned_steps: int = 1
    """Number of step indices that are told apart; later steps count as the last."""
    anchor: Anchor = "none"
    head: Head = "linear"
    head_init: HeadInit = "zero"
    scale_inputs: bool = False
    """Multiply embeddings by ``sqrt(dim)`` where they enter the blocks: tables can then be as small, and learn as fast, as
    output weights, while context and candidate are as large as what the blocks add. Autoregressive networks only."""
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        check_fields(self, LIMITS)
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of 2 x heads ({2 * self.heads}): rotary embeddings need pairs")
        if self.head_init == "unit" and self.head == "linear":
            raise ValueError("head_init is 'unit', and a linear head is no product with the candidate: choose head bilinear")

    @property
    def hidden(self) -> int:
        """Inner width of the feed-forward layers."""
        return self.ffn_dim or (4 * self.dim if self.block == "dit" else -(-8 * self.dim // 3 // 16) * 16)

    @property
    def context_per_step(self) -> bool:
        """Whether what the network makes of the context depends on the step index."""
        return self.conditioning in ("prefix", "modulation")


SIZES: dict[str, tuple[int, int, int]] = {
    "nano": (3, 64, 4),
    "micro": (4, 128, 4),
    "xxs": (6, 384, 6),
    "xs": (12, 384, 6),
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (24, 1536, 16),
    "xl": (24, 2048, 32),
}
"""Layers, dim and heads by name: the paper's (table C.2), and two for CPUs."""


def network_config(size: str, **overrides: object) -> NetworkConfig:
    """The configuration of a size by name, with any field overridden (None leaves the size's own).

    Raises:
        ValueError: an unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}: choose one of {', '.join(SIZES)}")
    named = dict(zip(("layers", "dim", "heads"), SIZES[size], strict=True))
    return NetworkConfig(**{**named, **{key: value for key, value in overrides.items() if value is not None}})  # type: ignore[arg-type]
