"""Write a run's predictions: python predict.py run=outputs/DATE/TIME input=FILE output=predictions.csv."""

from quartet.cli import predict

if __name__ == "__main__":
    predict()
