"""Callbacks: averaging, unfreezing, progress, interruption, collected predictions, pruning."""
