"""Compose a configuration, check what it may call, and instantiate its parts."""
