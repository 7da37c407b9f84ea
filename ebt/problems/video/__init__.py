"""Video: predict the next frame in the space of a frozen encoder."""
