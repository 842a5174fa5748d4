"""Shared by all packages: problems, messages, atomic files, signals, process ranks, redaction."""
