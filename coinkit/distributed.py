"""Training in several processes that torchrun has started, on one machine or several; without it, there is just one."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from coinkit.cli import UserError
from coinkit.files import format_bytes

RANK = int(os.environ.get("RANK", 0))  # the number of this process
IS_MAIN = RANK == 0  # writes and prints for all
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))  # of processes, over all machines
TIMEOUT = timedelta(minutes=10)  # that they wait for one another, while the first one saves and draws, say
GONE = ("by peer", "Timed out", "remote process")  # what gloo and NCCL say when one no longer answers

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Be one of the processes that torchrun has started, if it has started this one. Only the first one prints.

    Raises:
        UserError: another process has gone.
        Exception: any other, but only in the process where one happens first; the rest exits with status 1.
    """
    if WORLD_SIZE == 1:
        yield
        return
    store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # Without a backend's name, tensors on GPUs go through NCCL and those on the CPU through gloo.
    dist.init_process_group(store=store, rank=RANK, world_size=WORLD_SIZE, timeout=TIMEOUT)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(sys.stdout if IS_MAIN else nowhere):
            yield
    except Exception as error:
        if store.add("errors", 1) > 1:  # the same mistake, or what follows from it
            sys.exit(1)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in GONE):
            raise UserError("another process has gone: see which one in torchrun's report, under Root Cause.") from None
        raise
    dist.destroy_process_group()


def batch_share() -> slice:
    """Return which part of each batch is for this process."""
    return slice(RANK, None, WORLD_SIZE)


def wrap_model(model: nn.Module) -> nn.Module:
    """Return the network to learn with: after its backward pass, gradients are the means over the processes."""
    if WORLD_SIZE == 1:
        return model
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    weights, told = list(model.parameters()), ""
    if weights[0].is_cuda:
        # The gradients of fc1 alone are 540 MB, which takes longer to send than to compute. bf16 halves that, has the
        # range of fp32, and its rounding is small beside the noise of a batch. On CPUs the network is small.
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        wrapped.register_comm_hook(None, bf16_compress_hook)
        told = f", sent as {format_bytes(sum(2 * weight.numel() for weight in weights))} in bf16"
    print(
        f"Processes: {WORLD_SIZE}; each has {format_bytes(sum(4 * weight.numel() for weight in weights))} of gradients "
        f"a step{told}"
    )
    return wrapped


def sum_over_processes(*values: float) -> list[float]:
    """Return the sums of numbers over the processes."""
    sums = torch.tensor(values, dtype=torch.float64)
    if WORLD_SIZE > 1:
        dist.all_reduce(sums)
    return sums.tolist()


def gather(value: T) -> list[T]:
    """Return the values of all processes, which may be anything that can be pickled."""
    values = [value] * WORLD_SIZE
    if WORLD_SIZE > 1:
        dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """Return the value of the first process, which may be anything that can be pickled."""
    values = [value]
    if WORLD_SIZE > 1:
        dist.broadcast_object_list(values)
    return values[0]


def sync_buffers(model: nn.Module) -> None:
    """Give the network of each process the buffers of the first one's: the averages of batch norms, say."""
    for buffer in model.buffers() if WORLD_SIZE > 1 else ():
        dist.broadcast(buffer, src=0)
