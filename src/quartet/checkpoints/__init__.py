"""Durable checkpoints and the exact resume from one."""
