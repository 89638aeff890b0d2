"""Several processes that train as one: each takes its rows of every batch, gradients are added.

The gradients are summed by one explicit all-reduce per step instead of by wrapping the model in
DistributedDataParallel. Its hooks act on ``backward()``, which neither an attack (it differentiates
images) nor this package's ``autograd.grad`` calls, and a wrapper would hide ``embed`` and
``tokens`` of the classifier and prefix the names of its parameters. What its overlap saves is
small: the all-reduce comes once after all forward and backward passes of the attack.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from pistole import processes
from pistole.errors import UserError


@dataclass(frozen=True)
class Workers:
    """This process among those that train one model.

    Attributes:
        rank: its number, 0 for the one that writes.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Tell whether this process writes and reports."""
        return self.rank == 0

    def rows(self, images: int, parts: int) -> list[slice]:
        """Split a batch into equal shares of all processes, and this one's into parts.

        Args:
            images: of the whole batch, at least ``count * parts``.
            parts: passes that each process makes per step (gradient accumulation).

        Returns:
            The rows of each of this process's parts; sizes differ by one at most.
        """
        edges = [images * part // (self.count * parts) for part in range(self.count * parts + 1)]
        mine = edges[self.rank * parts : (self.rank + 1) * parts + 1]
        return [slice(start, end) for start, end in itertools.pairwise(mine)]

    def add_up(self, gradients: list[Tensor | None]) -> list[Tensor | None]:
        """Add the gradients of all processes, in one message.

        Args:
            gradients: of this process's rows; None, in all processes alike, where the loss does
                not reach.

        Returns:
            The sums, in the same order.
        """
        if self.count == 1:
            return gradients
        found = [gradient for gradient in gradients if gradient is not None]
        flat = torch.cat([gradient.flatten() for gradient in found])
        distributed.all_reduce(flat)
        summed = iter(flat.split([gradient.numel() for gradient in found]))
        return [None if g is None else next(summed).view_as(g) for g in gradients]

    def add_up_numbers(self, numbers: dict[str, float], device: torch.device) -> dict[str, float]:
        """Add the numbers of all processes.

        Args:
            numbers: of this process's rows; the same names in all processes.
            device: that the processes exchange tensors on.

        Returns:
            The sums.
        """
        if self.count == 1:
            return numbers
        summed = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
        distributed.all_reduce(summed)
        return dict(zip(numbers, summed.tolist(), strict=True))

    def require_same(self, number: int, what: str, device: torch.device) -> None:
        """Refuse processes that do not start at the same place.

        Args:
            number: this process's.
            what: its name, for the message.
            device: that the processes exchange tensors on.

        Raises:
            UserError: the processes have different numbers.
        """
        if self.count == 1:
            return
        ends = torch.tensor([number, -number], device=device)
        distributed.all_reduce(ends, op=distributed.ReduceOp.MAX)
        most, least = ends[0].item(), -ends[1].item()
        if most != least:
            raise UserError(
                f"{what} is {least} in one process and {most} in another: start all of them in "
                "the same folder, on a file system that they share"
            )


ALONE = Workers()


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Workers]:
    """Join the other processes that ``torchrun`` started, if it did.

    Args:
        device: where the model will be; on CUDA each process of a machine takes its own GPU.

    Yields:
        This process among them.

    Raises:
        UserError: there are more processes than GPUs on this machine.
    """
    if processes.count() == 1:
        yield ALONE
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU (there are "
                f"{torch.cuda.device_count()}): lower --nproc-per-node, or set device: cpu"
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(processes.rank(), processes.count())
    finally:
        distributed.destroy_process_group()
