"""The optimiser, and the schedules of learning rate, dropout and augmentation."""

import math

import torch
from torch import nn

FULL_RATE_INPUTS = 576  # a layer with more inputs than this (64 channels, 3x3) gets a smaller learning rate


def make_optimizer(model: nn.Module, learning_rate: float, weight_decay: float, fused: bool) -> torch.optim.Optimizer:
    """Return AdamW with a learning rate for each layer.

    Adam moves every weight by about the learning rate, so a layer's output moves in proportion to its number of
    inputs: with one rate for all, fc1 with its 65,536 jumps about while the convolutions stand still. Weights of more
    than `FULL_RATE_INPUTS` inputs therefore get a rate that much smaller (Yang et al. 2022, "Tensor Programs V",
    arXiv 2203.03466, table 8). What is no weight of a layer (biases, scales of norms) does not decay.
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
    """Take the averages from the state of another optimiser of the same weights; how to step stays as it is here.

    Raises:
        Exception: of any kind, if they do not fit.
    """
    optimizer.load_state_dict(state | {"param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, averages in optimizer.state.items():
        if not parameter.shape == averages["exp_avg"].shape == averages["exp_avg_sq"].shape:
            raise ValueError("averages of another shape than the weights")


def set_learning_rate(optimizer: torch.optim.Optimizer, share: float) -> float:
    """Give each layer a share of its full learning rate; return the highest that is set."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["full_lr"]
    return max(group["lr"] for group in optimizer.param_groups)


def set_dropout(model: nn.Module, share: float) -> None:
    """Make all dropout of a network drop a share of the features, 0 to 1."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = share


def learning_rate_factor(progress: float, warmup: float) -> float:
    """Return the share of the full learning rate at a progress of 0 to 1: a linear rise, then half a cosine to 0."""
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def regularisation_factor(progress: float) -> float:
    """Return the share of full dropout and augmentation at a progress of 0 to 1: a linear rise over the first half.

    At full strength, dropout hides the little by which the features of an untrained network differ from coin to coin,
    so that for many epochs it learns nothing (docs/experiments.md). Dropout that grows is that of Morerio et al.
    2017, "Curriculum Dropout", arXiv 1703.06229.
    """
    return min(1.0, 2 * progress)
