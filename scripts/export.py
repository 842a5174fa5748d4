"""Export a run's model: python scripts/export.py run=outputs/DATE/TIME format=onnx."""

from quartet.cli import command_on_run

if __name__ == "__main__":
    command_on_run("export")
