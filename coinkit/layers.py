"""Layers that PyTorch does not have."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose weights are standardised: for each output, their mean is 0 and their norm 1.

    With group norm after it, a network learns from batches of a few photos as well as from large ones (Qiao et al.
    2019, "Micro-Batch Training with Batch-Channel Normalization and Weight Standardization", arXiv 1903.10520). The
    paper gives weights a standard deviation of 1. After group norm that is the same; before it, a norm of 1 keeps
    values small enough for fp16.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H, W) of x (N, in_channels, H, W)."""
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (torch.linalg.vector_norm(weight, dim=(1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class AveragePool(nn.AdaptiveAvgPool2d):
    """Average pooling to a fixed size. On a Mac's GPU, PyTorch cannot do it where the size is no whole multiple."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, *output_size) of x (N, channels, H, W)."""
        is_multiple = all(size % wanted == 0 for size, wanted in zip(x.shape[2:], self.output_size, strict=True))
        return super().forward(x) if is_multiple or x.device.type != "mps" else super().forward(x.cpu()).to(x.device)


class Residual(nn.Module):
    """A block that halves the size, with a skip connection: average pooling and a 1x1 convolution of its input."""

    def __init__(self, block: nn.Module, in_channels: int, out_channels: int):
        super().__init__()
        self.block = block
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, out_channels, H / 2, W / 2) of x (N, in_channels, H, W)."""
        return self.block(x) + self.shortcut(F.avg_pool2d(x, 2))
