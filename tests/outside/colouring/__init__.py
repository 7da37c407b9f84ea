"""Graph colouring: a problem in one folder, outside of the library."""
