"""What happens to jobs, as stored and ordered records: written with the change itself, streamed to whoever asks."""
