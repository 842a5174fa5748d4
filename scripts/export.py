"""Export a run's model: python scripts/export.py run=outputs/DATE/TIME format=onnx."""

from quartet.cli import export

if __name__ == "__main__":
    export()
