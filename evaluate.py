"""Score a run, or the winner of a sweep: python evaluate.py run=outputs/DATE/TIME split=val."""

from quartet.cli import command_on_run

if __name__ == "__main__":
    command_on_run("evaluate")
