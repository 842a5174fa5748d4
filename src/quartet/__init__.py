"""Quartet: loss, optimizer, scheduler and metrics composed into one LightningModule."""
