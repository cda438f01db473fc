"""The networks that --model can train. To add one, write what makes it and give it an entry in `BACKBONES`.

`CoinClassifier` has its entry in coin_classifier_custom.py, beside its class. torchvision is imported only by the
functions that use it: that takes a second, which predict.py saves.
"""

import inspect
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from coinkit.checkpoints import load_tensors
from coinkit.cli import UserError, home_path, in_words


class Backbone(NamedTuple):
    """What the scripts have to know about a network."""

    # Called with the number of classes, `image_width` and `image_height`. What else it takes must be named like a flag
    # of coin_classifier_custom.py, whose value it gets: `dropout`, for example.
    # Training sets the share that its dropout layers drop, as --dropout says.
    make: Callable[..., nn.Module]
    head: str  # dotted name of its last layer, which has an output for each class
    heatmap_layer: str  # dotted name of the submodule whose output, (N, C, H, W), heatmaps explain
    pretrained_weights: Callable[[str], dict[str, Tensor]] | None = None  # loads what --pretrained names


def make_model(name: str, num_classes: int, architecture: dict) -> nn.Module:
    """Return a network with random weights; it knows the size of its photos and which layer heatmaps explain.

    Args:
        name: a key of `BACKBONES`.
        num_classes: how many grades.
        architecture: a value for each of its `architecture_options`.
    """
    backbone = BACKBONES[name]
    model = backbone.make(num_classes, **architecture)
    model.image_width, model.image_height = architecture["image_width"], architecture["image_height"]
    model.heatmap_layer = backbone.heatmap_layer
    return model


def architecture_options(name: str) -> tuple[str, ...]:
    """Return which options a network is made from, beside the number of classes: what its checkpoint has to hold."""
    return tuple(inspect.signature(BACKBONES[name].make).parameters)[1:]


def with_defaults(name: str, architecture: dict) -> dict:
    """Return the options that a network is made from, with the defaults of those that an older checkpoint lacks."""
    parameters = inspect.signature(BACKBONES[name].make).parameters.values()
    return {option.name: option.default for option in parameters if option.default is not option.empty} | architecture


def make_resnet50(num_classes: int, image_width: int, image_height: int) -> nn.Module:
    """Return torchvision's ResNet-50 with random weights (He et al. 2016, arXiv 1512.03385); it takes any size."""
    from torchvision.models import resnet50

    return resnet50(num_classes=num_classes)


def pretrained_resnet50(source: str) -> dict[str, Tensor]:
    """Return the weights that torchvision's ResNet-50 has learned from ImageNet.

    Args:
        source: "download", or the name of a file that holds them.

    Raises:
        UserError: the download fails, or there are no weights in the file.
    """
    from torchvision.models import ResNet50_Weights

    try:
        if source == "download":
            return ResNet50_Weights.DEFAULT.get_state_dict(progress=True, check_hash=True)
        return load_tensors(home_path(source))
    except Exception as error:  # no network, no file, or no weights in it
        advice = f"download {ResNet50_Weights.DEFAULT.url} elsewhere and give --pretrained FILE"
        reason = in_words(error) if isinstance(error, OSError) else error
        raise UserError(f"no pretrained weights from {source} ({reason}): {advice}.") from None


BACKBONES = {"resnet50": Backbone(make_resnet50, "fc", "layer4", pretrained_resnet50)}
