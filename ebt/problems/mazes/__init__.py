"""Mazes: mark the shortest path from start to goal."""
