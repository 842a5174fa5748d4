"""Sweeps that choose what to try next."""
