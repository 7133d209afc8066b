"""Decides what runs and when, hands it to the backend, and takes the results in."""
