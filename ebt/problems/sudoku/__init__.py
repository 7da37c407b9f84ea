"""Sudoku: boards with empty cells."""
