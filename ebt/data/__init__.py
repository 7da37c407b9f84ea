"""Data: documents, puzzles; tokenised, packed, batched, in an order that a resumed run continues."""
