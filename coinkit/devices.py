"""The device that the network runs on, and its precision."""

import os

import torch
from torch import nn

from coinkit.cli import UserError


def find_device(name: str) -> torch.device:
    """Return the device of this name; "auto" is a GPU if there is one. Each process of torchrun gets a GPU of its own.

    Raises:
        UserError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = (torch.ones(1, device=name) + 1).device  # fails, too, on a GPU that PyTorch no longer supports
    except Exception:
        advice = "as many processes as there are GPUs" if "LOCAL_RANK" in os.environ else "cpu"
        raise UserError(f"--device {name}: this computer or this PyTorch has no such device; try {advice}.") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return the device that a network is on."""
    return next(model.parameters()).device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type of numbers to multiply; "auto" is the fastest that the device has instructions for."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return torch.bfloat16
    return torch.float32


def choose_memory_format(dtype: torch.dtype) -> torch.memory_format:
    """Return how to lay out photos and weights: with the channels last, convolutions are faster in half precision; in
    fp32 on a CPU, up to twice as slow.
    """
    return torch.contiguous_format if dtype == torch.float32 else torch.channels_last


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return a context in which a network multiplies numbers of this type; other work stays in fp32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
