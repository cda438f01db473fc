"""Training in several processes, started by torchrun on one machine or several. Without torchrun there is one."""

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
IS_MAIN = RANK == 0  # the main process writes and prints for all
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))  # the number of processes, over all machines
BATCH_SHARE = slice(RANK, None, WORLD_SIZE)  # which photos of each batch this process takes
TIMEOUT = timedelta(minutes=10)  # processes wait this long for one another, such as for the main one to save
GONE = ("by peer", "Timed out", "remote process")  # in the messages of gloo and NCCL when a process has gone

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Connect the processes that torchrun has started; without torchrun, do nothing. Only the main process prints.

    Raises:
        UserError: another process has gone.
        Exception: any other, in the process where one is raised first; the others exit with status 1.
    """
    if WORLD_SIZE == 1:
        yield
        return
    store, _, _ = next(dist.rendezvous("env://", timeout=TIMEOUT))
    # Gradients on GPUs go through NCCL, and what is on the CPU through gloo.
    backends = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backends, store=store, rank=RANK, world_size=WORLD_SIZE, timeout=TIMEOUT)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(sys.stdout if IS_MAIN else nowhere):
            yield
    except Exception as error:
        if store.add("errors", 1) > 1:  # it is the same error, or follows from it
            sys.exit(1)
        if isinstance(error, RuntimeError) and any(words in str(error) for words in GONE):
            raise UserError("another process has gone: see which one in torchrun's report, under Root Cause.") from None
        raise
    dist.destroy_process_group()


def wrap_model(model: nn.Module) -> nn.Module:
    """Return the network to train: after its backward pass, gradients are means over the processes."""
    if WORLD_SIZE == 1:
        return model
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    weights, told = list(model.parameters()), ""
    if weights[0].is_cuda:
        # The gradients of fc1 alone are 540 MB, and sending them takes longer than computing them. bf16 halves the
        # size and has the range of fp32; its rounding is small beside the noise of a batch. Networks on CPUs are small.
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

        wrapped.register_comm_hook(None, bf16_compress_hook)
        told = f", sent as {format_bytes(sum(2 * weight.numel() for weight in weights))} in bf16"
    print(
        f"Processes: {WORLD_SIZE}; each has {format_bytes(sum(4 * weight.numel() for weight in weights))} of gradients "
        f"a step{told}"
    )
    return wrapped


def gather(value: T) -> list[T]:
    """Return the values of all processes, in the order of their ranks. A value is anything that can be pickled."""
    values = [value] * WORLD_SIZE
    if WORLD_SIZE > 1:
        dist.all_gather_object(values, value)
    return values


def is_same(value: object) -> bool:
    """Return whether all processes have the same value."""
    values = gather(value)
    return all(other == values[0] for other in values)


def broadcast(value: T) -> T:
    """Return the value of the main process, which is anything that can be pickled."""
    values = [value]
    if WORLD_SIZE > 1:
        dist.broadcast_object_list(values)
    return values[0]


def sync_buffers(model: nn.Module) -> None:
    """Copy the buffers of the main process's network, such as batch norm's averages, to the other processes."""
    for buffer in model.buffers() if WORLD_SIZE > 1 else ():
        dist.broadcast(buffer, src=0)
