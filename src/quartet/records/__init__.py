"""The run directory: result.json, metrics.csv, locks, loggers, the table of a sweep's jobs."""
