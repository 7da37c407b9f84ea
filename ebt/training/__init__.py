"""Training: Lightning tasks, optimisation, resumable data, strategies, plans."""
