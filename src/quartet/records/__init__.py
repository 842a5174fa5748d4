"""The run directory: result.json, metrics.csv, locks, loggers, the jobs of a sweep."""
