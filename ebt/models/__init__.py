"""What all models share: saving and loading with Hugging Face, thinking options, starts."""
