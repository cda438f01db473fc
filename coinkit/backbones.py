"""torchvision's ResNet-50, to compare with; torchvision is imported late, since predict.py can save the second."""

from pathlib import Path

from torch import Tensor, nn

from coinkit.checkpoints import load_tensors
from coinkit.cli import UserError


def make_resnet50(num_classes: int, image_width: int, image_height: int) -> nn.Module:
    """Return torchvision's ResNet-50 with random weights (He et al. 2016, arXiv 1512.03385), to compare with."""
    from torchvision.models import resnet50

    model = resnet50(num_classes=num_classes)
    model.image_width, model.image_height = image_width, image_height
    return model


def pretrained_resnet50(source: str) -> dict[str, Tensor]:
    """Return weights of torchvision's ResNet-50, learned from ImageNet: downloaded ("download"), or from a file.

    Raises:
        UserError: they cannot be had.
    """
    from torchvision.models import ResNet50_Weights

    try:
        if source == "download":
            return ResNet50_Weights.DEFAULT.get_state_dict(progress=True, check_hash=True)
        return load_tensors(Path(source))
    except Exception as error:  # no network, no file, or no weights in it
        advice = f"download {ResNet50_Weights.DEFAULT.url} elsewhere and give --pretrained FILE"
        raise UserError(f"no pretrained weights from {source} ({error}): {advice}.") from None
