"""What made the network decide: where in a photo it saw what spoke for a grade."""

import torch
from torch import Tensor, nn


def heatmaps(model: nn.Module, photos: Tensor, targets: Tensor) -> Tensor:
    """Return where photos show what speaks for a grade, by HiResCAM (Draelos & Carin 2020, arXiv 2011.08891).

    Grad-CAM would average the gradients over all places first, which fits a network that ends with an average over
    places, as ResNet-50 does; on it the two agree. Fully connected layers treat each place differently.

    Each photo's map is scaled by itself, so that its hottest place is 1; where nothing speaks for the grade, all is 0.

    Args:
        model: a trained network of `coin_classifier_custom.MODELS`, in eval mode.
        photos: (N, 3, H, W), as `normalise` returns them, on the model's device.
        targets: (N,), the index of the grade to ask about, for each photo.

    Returns:
        (N, H, W), 0 to 1.
    """
    from captum.attr import LayerAttribution, LayerGradientXActivation  # takes a second that predict.py can save

    if hasattr(model, "layer4"):  # ResNet-50, whose last block ends without a pooling
        layer, before_it = model.layer4, False
    else:  # what goes into the last pooling has twice the detail of what comes out
        layer, before_it = [layer for layer in model.modules() if isinstance(layer, nn.MaxPool2d)][-1], True
    with torch.inference_mode(False), torch.enable_grad():  # the caller may have switched gradients off
        cam = LayerGradientXActivation(model, layer)
        maps = cam.attribute(photos.clone(), targets.clone(), attribute_to_layer_input=before_it)
    maps = maps.sum(dim=1, keepdim=True).relu()
    maps = LayerAttribution.interpolate(maps.detach(), photos.shape[2:], "bilinear")[:, 0]
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
