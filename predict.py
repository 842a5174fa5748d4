"""Write a run's predictions: python predict.py run=outputs/DATE/TIME input=FILE output=predictions.csv."""

from quartet.cli import command_on_run

if __name__ == "__main__":
    command_on_run("predict")
