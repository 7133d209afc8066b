"""Runs trials: on Ray slots, or replayed from recorded learning curves. Never touches a database."""
