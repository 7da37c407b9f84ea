"""Images: remove noise, fill in pixels."""
