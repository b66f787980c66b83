"""Several processes that train one network together: one leads, the others follow it step by step.

The leader alone reads images, keeps the schedule, validates, and talks to the outside. Each step it hands
every process the whole batch, of which each learns from its own share; DistributedDataParallel averages what
they learnt. So the result is that of one process with the whole batch, whatever the number of GPUs. On CPUs
batch norms are the exception: each process has those of its own share.

A follower is a process of its own, `python -m ml.team`, that is told what to do through its standard input
and ends when that closes: it cannot outlive its leader, however that ends.
"""

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

PATIENCE = timedelta(hours=1)  # that followers wait for their leader, who may be validating
END = -1


class Team:
    """One process of `size`, working on `device`. Alone, it changes nothing and sends nothing."""

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size
        self.followers: list[subprocess.Popen[bytes]] = []

    def joined(self, learner: nn.Module) -> nn.Module:
        """The same module, whose gradients are averaged over the team; it starts as the leader's."""
        if self.size == 1:
            return learner
        if self.device.type == "cuda":  # on a CPU, each process's share is normalised for itself
            learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(learner)

    def hand_out(self, header: Sequence[int], batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The leader's share of a batch, whose followers get theirs from `handed_out`.

        `header` is two numbers for the followers. Raises ChildProcessError when one of them is gone.
        """
        batch = tuple(tensor.to(self.device, non_blocking=True) for tensor in batch)
        if self.size == 1:
            return batch
        if any(follower.poll() is not None for follower in self.followers):
            raise ChildProcessError("A process that took part in the training has ended; see its log.")
        self._send(torch.tensor([*header, len(batch[0])]))
        for tensor in batch:
            self._send(tensor)
        return self._share(batch)

    def handed_out(self, like: Sequence[Tensor]) -> Iterator[tuple[list[int], tuple[Tensor, ...]]]:
        """What the leader hands out until it ends: its header, and this process's share of the batch.

        `like` has tensors of the dtype and the shape, after the first dimension, of the batch's.
        """
        while True:
            *header, number = self._send(torch.zeros(3, dtype=torch.int64)).tolist()
            if number == END:
                return
            batch = [torch.empty((number, *t.shape[1:]), dtype=t.dtype, device=self.device) for t in like]
            yield header, self._share([self._send(tensor) for tensor in batch])

    def _share(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """As many images for each; where they don't come out even, some images go to two."""
        number = len(batch[0])
        each = -(-number // self.size)
        mine = (torch.arange(each, device=self.device) * self.size + self.rank) % number
        return tuple(tensor[mine] for tensor in batch)

    def _send(self, tensor: Tensor) -> Tensor:
        """From the leader to the others, into `tensor`."""
        tensor = tensor.to(self.device).contiguous()
        dist.broadcast(tensor, 0)
        return tensor


@contextmanager
def team_of(size: int, device: torch.device, follow: Callable[..., None], *arguments: Any) -> Iterator[Team]:
    """Lead a team; every follower calls `follow(team, *arguments)`, all of which has to be picklable.

    On CUDA each process has a GPU of its own.
    """
    if size == 1:
        yield Team(device)
        return
    store = TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    team = Team(_own(device, 0), 0, size)
    try:
        for rank in range(1, size):
            follower = subprocess.Popen(
                [sys.executable, "-m", "ml.team"], stdin=subprocess.PIPE, cwd=Path(__file__).parents[1]
            )
            team.followers.append(follower)
            assert follower.stdin is not None
            pickle.dump((store.port, rank, size, device, follow, arguments), follower.stdin)
            follower.stdin.flush()
        _join(store, team)
        yield team
        team._send(torch.tensor([0, 0, END]))
        for follower in team.followers:
            follower.wait(PATIENCE.total_seconds())
    finally:
        for follower in team.followers:
            follower.kill()
            follower.wait()
        if dist.is_initialized():
            dist.destroy_process_group()


def _own(device: torch.device, rank: int) -> torch.device:
    return torch.device("cuda", rank) if device.type == "cuda" else device


def _join(store: Store, team: Team) -> None:
    if team.device.type == "cuda":
        torch.cuda.set_device(team.device)
    backend = "nccl" if team.device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=team.rank, world_size=team.size, timeout=PATIENCE)


def _follow() -> None:
    """The whole life of a follower."""
    port, rank, size, device, follow, arguments = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_leader, daemon=True).start()
    team = Team(_own(device, rank), rank, size)
    _join(TCPStore("127.0.0.1", port, size), team)
    follow(team, *arguments)
    dist.destroy_process_group()


def _end_with_leader() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    from ml.team import _follow as follow_as_imported  # not as __main__, whose classes are others

    follow_as_imported()
