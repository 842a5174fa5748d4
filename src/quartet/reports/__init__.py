"""Pictures of a run, and results.csv and report.html of a sweep."""
