"""Data sets: the DataModule, loaders, splits, augmentation, and readers of files."""
