"""The few-trial strategy: an Optuna sampler that knows the shape of (lr, fc_norm) surfaces, noise and divergence.

This is part of this project's reconstruction of the idea of arXiv 2103.15345, whose tuning rule is not published.
"""
