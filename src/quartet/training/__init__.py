"""The base module, metric buffers, schedules, parameter groups and callbacks of a training."""
