"""One training run: the schedule, the loop, its checkpoints, and the weights it leaves."""
