"""Checkpoints and recorded tensors of the published code on this library's networks."""
