"""Nodes that are taken out of use for a while, and why."""
