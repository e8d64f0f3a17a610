"""The processes of a run on several GPUs, as torchrun starts them."""

__all__ = ["ALONE", "PeerEndedError", "Processes", "joined"]

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import distributed, nn

from flowsr_runtime.errors import FlowsrError, ProviderError, UsageError

T = TypeVar("T")

# Words of the messages of the libraries that connect processes, gloo and NCCL.
CONNECTIONS = ("gloo", "nccl", "connection closed", "connection reset")


class PeerEndedError(FlowsrError):
    """Another process of the run has ended with an error, and has reported it."""


@dataclass
class Processes:
    """One process among those that train the same weights.

    Attributes:
        rank: Number of this process, from 0.
        count: Number of processes.
        device: Device that this one trains on.
        agreed: Whether all have agreed that none has an error before the first step.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    agreed: bool = False

    @property
    def first(self) -> bool:
        """Whether this process writes the files and reports."""
        return self.rank == 0

    def share(self, batch: int) -> int:
        """Return the crops of a step that this process computes.

        Raises:
            UsageError: If the processes cannot have equal shares.
        """
        if batch % self.count:
            raise UsageError(
                f"batch must be a multiple of {self.count}, the number of processes, "
                f"got {batch}",
                option="batch",
            )
        return batch // self.count

    def gathered(self, value: T) -> Sequence[T]:
        """Return the values that all processes pass, in order of their ranks."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    def agree(self, error: FlowsrError | None) -> None:
        """Let an error of one process end all; the first that has one raises it.

        Raises:
            FlowsrError: The error that was passed.
            PeerEndedError: If another process raises its own.
        """
        self.agreed = True
        failed = self.gathered(error is not None)
        if True not in failed:
            return
        if error is not None and failed.index(True) == self.rank:
            raise error
        raise PeerEndedError("another process of the run has ended with an error")

    def parallel(self, losses: nn.Module) -> nn.Module:
        """Wrap a module so that the gradients of all processes are averaged.

        The weights and buffers of rank 0 become those of all.
        """
        if self.count == 1:
            return losses
        indices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(losses, device_ids=indices)


ALONE = Processes()


@contextmanager
def joined(device: Literal["cpu", "cuda"]) -> Iterator[Processes]:
    """Join the processes that the environment of torchrun describes, one without it.

    Errors until the processes agree are raised in one of them alone.

    Args:
        device: Kind of device to train on; of several GPUs each process has its own.

    Raises:
        UsageError: If the environment is not that of torchrun.
        ProviderError: If there is no GPU for this process.
        PeerEndedError: If another process has ended with an error.
    """
    processes = _connected(device)
    try:
        processes.device = _own_device(device, processes)
        yield processes
        processes.gathered(None)  # none ends while another one still uses the connection
    except FlowsrError as error:
        if not processes.agreed:
            processes.agree(error)
        raise
    except RuntimeError as error:
        if processes.count == 1 or not _is_lost(error):
            raise
        raise PeerEndedError("another process of the run has ended with an error") from error
    finally:
        if processes.count > 1:
            # What holds the group would end its threads as late as the interpreter ends, and
            # abort it at times.
            gc.collect()
            distributed.destroy_process_group()


def _connected(device: Literal["cpu", "cuda"]) -> Processes:
    """Connect the processes that the environment describes; one alone has no connection."""
    count = os.environ.get("WORLD_SIZE", "1")
    if count == "1":
        return Processes()
    rank = os.environ.get("RANK", "")
    lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if lacking or not count.isdecimal() or not rank.isdecimal():
        raise UsageError(
            f"WORLD_SIZE is {count}, RANK {rank or 'not set'}"
            f"{''.join(f', {name} not set' for name in lacking)}: start the run with torchrun, "
            "or without WORLD_SIZE"
        )
    cuda = device == "cuda" and torch.cuda.is_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FlowsrError(f"the processes of the run cannot connect: {reason}") from error
    return Processes(int(rank), int(count))


def _own_device(device: Literal["cpu", "cuda"], processes: Processes) -> torch.device:
    """Return the device of this process, and make a GPU the current one."""
    if device == "cpu":
        return torch.device(device)
    if not torch.cuda.is_available():
        raise ProviderError("PyTorch finds no CUDA device", option="device")
    if processes.count == 1:
        return torch.device(device)
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        raise ProviderError(
            f"device must be a GPU for each process, got {gpus} for process {local}",
            option="device",
        )
    place = torch.device(device, local)
    torch.cuda.set_device(place)
    return place


def _is_lost(error: RuntimeError) -> bool:
    """Whether an error is of the connection to another process."""
    text = str(error).lower()
    return isinstance(error, distributed.DistError) or any(each in text for each in CONNECTIONS)
