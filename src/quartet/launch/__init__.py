"""Where the jobs of a sweep run: in processes of their own, here or on a cluster."""
