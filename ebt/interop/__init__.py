"""Models of others: checkpoints of the published code."""
