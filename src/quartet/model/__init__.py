"""Architectures: every model maps a batch of inputs to raw outputs ``(batch, num_outputs)``."""
