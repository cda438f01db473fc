"""Layers that PyTorch does not have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weights have mean 0 and length 1 for each output.

    With group norm after it, it learns from batches of a few photos as from large ones (Qiao et al. 2019, "Micro-Batch
    Training with Batch-Channel Normalization and Weight Standardization", arXiv 1903.10520). There, weights have
    deviation 1; group norm undoes the difference, but length 1 keeps what lies between within the range of fp16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H, W) of x (N, in_channels, H, W)."""
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class Residual(nn.Module):
    """A block with a skip connection: its input, halved in size, is added to its output through a 1x1 convolution."""

    def __init__(self, block: nn.Module, in_channels: int, out_channels: int):
        super().__init__()
        self.block = block
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H / 2, W / 2) of x (N, in_channels, H, W)."""
        return self.block(x) + self.shortcut(F.avg_pool2d(x, 2))
