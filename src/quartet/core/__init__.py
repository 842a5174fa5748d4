"""Shared by all rooms: problems, messages, files, processes and their signals."""
