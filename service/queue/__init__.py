"""Who waits for room, in which order and why."""
