"""The ranks of one job: who they are, and the few numbers that they agree on each step."""

import os
import socket
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import psutil
import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where a rank stands in its gang; `address:port` is rank 0's store, `own` its own address.

    A collective fails after `timeout` seconds, which is for `launch.watchdog` to come before.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = LOOPBACK
    port: int = 0
    own: str = LOOPBACK
    cuda: bool = False
    threads: int = 1
    timeout: float = 1800.0

    def at(self, address: str, port: int) -> "Place":
        """The same place in a gang that meets there."""
        return replace(self, address=address, port=port)

    def environment(self) -> dict[str, str]:
        """What DeepSpeed reads (without one of the five it falls through to MPI), and gloo."""
        interface = interface_of(self.own)
        return {
            "GLOO_SOCKET_IFNAME": interface,
            **({} if self.own == LOOPBACK else {"NCCL_SOCKET_IFNAME": interface}),
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "LOCAL_RANK": str(self.local_rank),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            "DS_ACCELERATOR": "cuda" if self.cuda else "cpu",
            "OMP_NUM_THREADS": str(self.threads),
        }


class Ranks:
    """The process group of a gang, made once and kept over the runs of a warm worker."""

    def __init__(self, place: Place, store: Any = None) -> None:
        """`store` is rank 0's own (see `open_store`); the others connect to it."""
        self.rank, self.world = place.rank, place.world
        self.device = torch.device("cuda", place.local_rank) if place.cuda else torch.device("cpu")
        if place.cuda:
            torch.cuda.set_device(self.device)
        os.environ.update(place.environment())
        torch.set_num_threads(place.threads)
        if store is None:
            store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
                place.address, place.port, place.world
            )
        timeout = timedelta(seconds=place.timeout)
        # DeepSpeed makes groups without one, and NCCL's own would come before a patient watchdog.
        c10d.default_pg_timeout = c10d.default_pg_nccl_timeout = timeout  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if place.cuda else "gloo",
            store=store,
            rank=place.rank,
            world_size=place.world,
            timeout=timeout,
        )

    def sum(self, *values: float) -> list[float]:
        """The sums over all ranks, in double precision on the host."""
        if self.world == 1:
            return list(values)
        totals = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(totals)
        return totals.tolist()

    def gather(self, value: float) -> list[float]:
        """Every rank's value, by rank."""
        return self.sum(*(value if rank == self.rank else 0.0 for rank in range(self.world)))

    def from_first(self, value: int) -> int:
        """Rank 0's value, everywhere."""
        return int(self.sum(value if self.rank == 0 else 0)[0])

    def barrier(self) -> None:
        self.sum(0)


def interface_of(address: str) -> str:
    """The network interface that has this address of this machine.

    Left alone, gloo takes the one that the host's name resolves to, which on Debian is loopback.
    """
    wanted = LOOPBACK if address.startswith("127.") else address
    for name, addresses in psutil.net_if_addrs().items():
        if any(found.address == wanted for found in addresses):
            return name
    raise RuntimeError(f"no network interface of this machine has the address {address}")


def open_store(address: str, world: int) -> tuple[Any, int]:
    """Rank 0's store, at `address` on a port that the system chose; one rank needs none."""
    if world == 1:
        return torch.distributed.HashStore(), 0  # type: ignore[attr-defined]
    listener = socket.create_server((address, 0))
    port = listener.getsockname()[1]
    store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
        address,
        port,
        world,
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return store, port
