"""Your project: the LightningModule, and the parts that torch and torchmetrics lack."""
