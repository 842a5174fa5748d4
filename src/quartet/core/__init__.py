"""What every room uses: problems, messages, durable files, signals, process ranks, redaction."""
