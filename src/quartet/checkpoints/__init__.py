"""Atomic, verified checkpoints, and the state for an exact resume."""
