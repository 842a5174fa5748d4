"""The base LightningModule, metric buffers, schedules, parameter groups and callbacks."""
