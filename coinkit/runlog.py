"""What TensorBoard shows of a run."""

from pathlib import Path

import numpy as np


class RunLog:
    """What TensorBoard shows of a run: curves of training and of validation, which share their charts."""

    def __init__(self, folder: Path, first_epoch: int):
        from torch.utils.tensorboard import SummaryWriter  # here, since it takes a second that predict.py can save

        # After a resume, purge_step hides what an interrupted run had logged beyond its last checkpoint.
        self.train = SummaryWriter(folder / "train", purge_step=first_epoch)
        self.val = SummaryWriter(folder / "val", purge_step=first_epoch)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.train.close()
        self.val.close()

    def start(self, config: dict, examples: np.ndarray) -> None:
        """Log the options as a table, and a picture (height, width, 3) of what the network will see."""
        rows = [f"| {name} | {value} |" for name, value in config.items()]
        self.train.add_text("config", "\n".join(["| option | value |", "| --- | --- |", *rows]))
        self.train.add_image("augmented training photos", examples, dataformats="HWC")
