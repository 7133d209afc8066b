"""Optuna's side: its storage is the truth about trials, and everything that touches it goes through here."""
