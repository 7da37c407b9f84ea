"""Energy-Based Transformers: networks that think by descending a learned energy (arXiv 2507.02092)."""

__version__ = "0.1.0"
