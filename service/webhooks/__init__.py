"""Tells an address of the user's that a job has ended: signed, tried again, never into the server's own network."""
