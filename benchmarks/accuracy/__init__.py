"""What the accuracy studies share: tasks, ways to train, runs that are kept, tables and plots."""
