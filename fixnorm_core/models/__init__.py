"""Networks by name: the catalogue (no torch) and the builder."""
