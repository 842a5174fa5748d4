"""Score a run, or the winner of a sweep: python evaluate.py run=outputs/DATE/TIME split=val."""

from quartet.cli import evaluate

if __name__ == "__main__":
    evaluate()
