"""The optimiser, and the schedules of the learning rate, dropout, augmentation and soft labels.

To change the learning-rate schedule, change `learning_rate_factor`.
"""

import math

import torch
from torch import nn

FULL_RATE_INPUTS = 576  # 64 channels, 3x3; a layer with more inputs than this gets a smaller learning rate
WIDEST_LABELS = 1 / 6  # standard deviation of the first soft labels, as a share of the way from worst to best grade
LEAST_STRENGTH = 0.02  # of augmentation: above 0, half of the photos have no colour (docs/experiments.md)


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Return AdamW with a learning rate for each layer.

    Adam changes every weight by about the learning rate, so the change in a layer's output grows with its number of
    inputs. With one rate for all layers, fc1 with its 65,536 inputs would change far too much while the convolutions
    hardly change. The rate of a layer with more than `FULL_RATE_INPUTS` inputs is therefore divided by the excess
    (Yang et al. 2022, "Tensor Programs V", arXiv 2203.03466, table 8). Biases and the scales of norms have no weight
    decay.

    Args:
        model: the network.
        learning_rate: of layers with up to `FULL_RATE_INPUTS` inputs, at its peak.
        weight_decay: of AdamW.
        fused: change all weights in one operation.
    """
    groups = {}
    for parameter in model.parameters():
        is_weight = parameter.ndim > 1
        inputs = parameter[0].numel() if is_weight else 1
        rate = learning_rate * min(1, FULL_RATE_INPUTS / inputs)
        group = {"params": [], "lr": rate, "full_lr": rate, "weight_decay": weight_decay if is_weight else 0.0}
        groups.setdefault((rate, is_weight), group)["params"].append(parameter)
    return torch.optim.AdamW(groups.values(), fused=fused)


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load the averages that an optimiser has saved; learning rates and other options stay as they are.

    Raises:
        Exception: of any kind, if they are not of these weights.
    """
    optimizer.load_state_dict(state | {"param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, averages in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if parameter.shape != averages[name].shape:
                raise ValueError("averages of another shape than the weights")
            # A run in another precision may have had another memory format, and fused kernels take all for alike.
            averages[name] = torch.empty_like(parameter).copy_(averages[name])


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Set each layer's learning rate to a share, 0 to 1, of its peak; return the highest of them."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["full_lr"]
    return max(group["lr"] for group in optimizer.param_groups)


def set_dropout(model: nn.Module, share: float) -> None:
    """Set the share of features, 0 to 1, that each dropout layer of a network sets to 0."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = share


def learning_rate_factor(share_done: float, warmup: float) -> float:
    """Return which share of its peak the learning rate has: a linear rise, then a fall to 0 along half a cosine.

    Args:
        share_done: how much of the training is done, 0 to 1.
        warmup: where the peak is, 0 to 1.
    """
    if share_done < warmup:
        return share_done / warmup
    return 0.5 * (1 + math.cos(math.pi * (share_done - warmup) / (1 - warmup)))


def regularisation_factor(share_done: float, learned: float) -> float:
    """Return which share of their full strength dropout and augmentation have.

    They grow over the first half of the training, but no faster than the network learns. The features of an untrained
    network hardly differ from coin to coin. Dropout at full strength hides that difference, and the network learns
    nothing for many epochs (docs/experiments.md). Dropout that grows is from Morerio et al. 2017, "Curriculum Dropout",
    arXiv 1703.06229.

    Args:
        share_done: how much of the training is done, 0 to 1.
        learned: how much the network has learned, 0 to 1, as `coinkit.losses.share_learned` returns it.
    """
    return min(1.0, 2 * share_done, max(LEAST_STRENGTH, 2 * learned))


def label_spread(share_done: float, spread: float, num_classes: int, is_new: bool = True) -> float:
    """Return the standard deviation of soft labels, in grades.

    With many grades, it falls to its final value over the first half of the training. So the network first learns to
    tell worn coins from fine ones, which all photos teach it, and then one grade from the next. With narrow labels from
    the start, it may learn nothing of many grades for many epochs (docs/experiments.md).

    Args:
        share_done: how much of the training is done, 0 to 1.
        spread: the final value; with 0, labels are hard from the start.
        num_classes: how many grades there are. With 5, a spread of 0.7 is the widest already.
        is_new: whether the network has learned no coins before. One that has can tell worn from fine already, so its
            labels have the final value from the start.
    """
    widest = WIDEST_LABELS * (num_classes - 1) if spread and is_new else 0.0
    return spread + max(0.0, widest - spread) * max(0.0, 1 - 2 * share_done)
