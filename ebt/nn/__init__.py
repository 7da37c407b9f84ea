"""Layers and networks. They work on embeddings of any modality and contain no training code."""

from ebt.nn.config import PAPER, SIZES, Anchor, Conditioning, Head, HeadInit, NetworkConfig, network_config
from ebt.nn.decoder import CausalTransformer, DecoderLandscape, EBTDecoder, KeyValueCache
from ebt.nn.encoder import EBTEncoder, EncoderLandscape, Transformer
from ebt.nn.patches import PatchEmbedding, fixed_positions, patchify, unpatchify

__all__ = [
    "PAPER", "SIZES", "Anchor", "CausalTransformer", "Conditioning", "DecoderLandscape", "EBTDecoder", "EBTEncoder",
    "EncoderLandscape", "Head", "HeadInit", "KeyValueCache", "NetworkConfig", "PatchEmbedding", "Transformer",
    "fixed_positions", "network_config", "patchify", "unpatchify",
]  # fmt: skip
