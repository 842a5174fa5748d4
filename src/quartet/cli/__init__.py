"""The commands: arguments, help, exit status."""
