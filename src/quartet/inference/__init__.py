"""Evaluate, predict with, and export a finished run; search a learning rate."""
