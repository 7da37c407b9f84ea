"""Base classes of all models: saving and loading with Hugging Face, configuration, thinking."""
