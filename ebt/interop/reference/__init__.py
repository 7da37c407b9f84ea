"""The published implementation's checkpoints and recorded tensors, on this library's networks."""
