"""Parts that the engine ships: AUROC, torchvision classifiers, FSDP."""
