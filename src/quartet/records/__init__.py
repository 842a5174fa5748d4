"""The run directory: result.json, metrics.csv, environment.json, loggers."""
