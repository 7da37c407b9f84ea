"""Training: Lightning tasks, optimisation, resumable data, sharding and plans."""
