"""Sweeps: directories, jobs, the grid, the search with Optuna, and launchers."""
