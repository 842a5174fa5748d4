"""The base module, tasks, schedules, parameter groups, metrics and callbacks of a training."""
