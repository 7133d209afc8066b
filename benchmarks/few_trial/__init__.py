"""Few-trial tuning on recorded surfaces: every sampler, many seeds, no training."""
