"""Training: tasks, the loop, workers of Ray Train, checkpoints."""
