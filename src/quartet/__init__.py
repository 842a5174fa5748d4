"""Quartet: loss, optimizer, scheduler and metrics composed into one LightningModule."""

from pathlib import Path

CONF = Path(__file__).parents[2] / "conf"
