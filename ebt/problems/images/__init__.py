"""Images: noise to remove, pixels to fill in."""
