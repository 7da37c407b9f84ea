"""Trained models of energy-based-transformers. ``ebt.load`` and ``--checkpoint`` find them by name."""
