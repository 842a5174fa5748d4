"""Data: the kinds of task, the DataModule, loaders, splits, csv tables and image folders."""
