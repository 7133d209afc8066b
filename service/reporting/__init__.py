"""What a finished job leaves for its user: weights, numbers, a report."""
