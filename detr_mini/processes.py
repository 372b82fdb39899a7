"""The processes of one training, as torchrun starts them; one alone is a group of one and waits for nobody."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

PATIENCE = timedelta(hours=12)  # how long the others wait while process 0 evaluates


class Processes:
    """This process among all of a training: rank, local_rank (on its machine), size; `main` is rank 0.

    Joins the group that torchrun's environment names, unless the caller has joined one already: gradients go by
    nccl on CUDA and by gloo elsewhere, flags always by gloo, so that asking for them never waits for a GPU.
    """

    def __init__(self, device_type: str):
        self.ours = not (dist.is_available() and dist.is_initialized())
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if self.ours and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            if device_type not in ("cpu", "cuda"):
                raise ValueError(
                    f"several processes train on CUDA or on the CPU, not on {device_type}: add --device cpu"
                )
            if device_type == "cuda":
                torch.cuda.set_device(self.local_rank)
            dist.init_process_group("nccl" if device_type == "cuda" else "gloo")
        together = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        self.main = self.rank == 0
        # A group of its own, since a hanging gradient should be found long before an evaluation may take too long.
        self.flags = dist.new_group(backend="gloo", timeout=PATIENCE) if self.size > 1 else None

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self.size > 1:
            dist.barrier(group=self.flags)

    @contextmanager
    def first_of_machine_first(self) -> Iterator[None]:
        """Inside, local rank 0 comes before the others: what it downloads they find."""
        if self.local_rank:
            self.wait()
        yield
        if not self.local_rank:
            self.wait()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process; all must ask."""
        if self.size == 1:
            return flag
        seen = torch.tensor([float(flag)])
        dist.all_reduce(seen, dist.ReduceOp.MAX, group=self.flags)
        return bool(seen.item())

    def from_main(self, number: int) -> int:
        """The number that process 0 has; all must ask."""
        if self.size == 1:
            return number
        told = torch.tensor([number])
        dist.broadcast(told, 0, group=self.flags)
        return int(told.item())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, on the tensor's device; all must ask."""
        if self.size == 1:
            return values
        total = values.double()  # in float32 the order of the sum would show
        dist.all_reduce(total)
        return (total / self.size).to(values.dtype)

    def leave(self) -> None:
        """Leaves the group, if it was joined here."""
        if self.size > 1 and self.ours:
            dist.destroy_process_group()
