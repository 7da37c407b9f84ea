"""What all problems share when they are measured: descents, results, statistics, curves. Results go to JSON."""
