"""Language: the next token of a text."""
