"""Sweeps: the job table, locks, the grid, Optuna, and launchers."""
