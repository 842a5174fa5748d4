"""Train a model: python train.py optimizer=rmsprop scheduler=step."""

from quartet.cli import train

if __name__ == "__main__":
    train()
