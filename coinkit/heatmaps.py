"""Heatmaps: which parts of a photo speak for a grade."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from coinkit.dataset import normalise
from coinkit.devices import device_of


def heatmaps(model: nn.Module, photos: Tensor, targets: Sequence[int]) -> Tensor:
    """Return how much each part of a photo speaks for a grade, by HiResCAM (Draelos & Carin 2020, arXiv 2011.08891).

    Grad-CAM averages the gradients over the photo first. That is right only for a network that itself ends with an
    average over the photo, such as ResNet-50, where both methods give the same map. The fully connected layers of
    `CoinClassifier` have a weight for each place.

    Each map is scaled by itself so that its maximum is 1. Where nothing speaks for the grade, the whole map is 0.

    Args:
        model: a trained network that `coinkit.backbones.make_model` has made, in eval mode.
        photos: (N, 3, H, W), uint8 or 0.0 to 1.0.
        targets: the index of the grade to ask about, for each photo.

    Returns:
        (N, H, W), 0 to 1, on the CPU.
    """
    from captum.attr import LayerAttribution, LayerGradientXActivation  # takes a second, which predict.py saves

    with torch.inference_mode(False), torch.enable_grad():  # the caller may have switched gradients off
        cam = LayerGradientXActivation(model, model.get_submodule(model.heatmap_layer))
        device = device_of(model)
        maps = cam.attribute(normalise(photos.to(device)), torch.tensor(targets, device=device))
    maps = maps.sum(dim=1, keepdim=True).relu()
    maps = LayerAttribution.interpolate(maps.detach(), photos.shape[2:], "bilinear")[:, 0]
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)).cpu()
