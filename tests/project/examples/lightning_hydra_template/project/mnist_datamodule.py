"""A LightningDataModule in the form of lightning-hydra-template, on made-up images."""

from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split


class MNISTDataModule(LightningDataModule):
    def __init__(
        self,
        data_dir: str = "data/",
        train_val_test_split: tuple[int, int, int] = (55_000, 5_000, 10_000),
        batch_size: int = 64,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        self.data_train: Dataset | None = None
        self.data_val: Dataset | None = None
        self.data_test: Dataset | None = None
        self.batch_size_per_device = batch_size

    def prepare_data(self) -> None:
        pass

    def setup(self, stage: str | None = None) -> None:
        if not self.data_train and not self.data_val and not self.data_test:
            generator = torch.Generator().manual_seed(42)
            count = sum(self.hparams.train_val_test_split)
            labels = torch.randint(0, 10, (count,), generator=generator)
            images = torch.randn(count, 1, 28, 28, generator=generator)
            images[:, 0, 0] += torch.nn.functional.one_hot(labels, 28)
            self.data_train, self.data_val, self.data_test = random_split(
                dataset=TensorDataset(images, labels),
                lengths=self.hparams.train_val_test_split,
                generator=torch.Generator().manual_seed(42),
            )

    def loader(self, dataset: Any, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            dataset=dataset,
            batch_size=self.batch_size_per_device,
            num_workers=self.hparams.num_workers,
            pin_memory=self.hparams.pin_memory,
            shuffle=shuffle,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.data_train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.data_val, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.loader(self.data_test, shuffle=False)
