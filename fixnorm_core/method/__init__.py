"""The method: which weights are scale-invariant, and the step that holds their norms."""
