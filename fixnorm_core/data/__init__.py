"""Images for training: which sets there are, how they are split, and how they become batches."""
