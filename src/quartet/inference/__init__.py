"""Evaluate, predict with, and export a finished run; find a learning rate or a batch size."""
