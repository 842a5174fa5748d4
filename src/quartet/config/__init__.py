"""Compose a configuration, check it against the allow-list, and instantiate its parts."""
