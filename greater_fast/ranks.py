"""Processes that run one job together, a rank each: what they tell one another, and how they end.

`torchrun` starts them and says by its variables which one each is. Every rank runs the same
program; what only one of them knows or decides reaches the others by an exchange, in which all take
part. An error is exchanged in place of a value: whoever waits for the value raises it instead.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from greater_fast.ctrl_c import interrupts_later, no_interrupts, seconds_to_end
from greater_fast.rank_messages import Message, from_rank, is_shared, mark_shared
from greater_fast.wording import in_one_line, quoted

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# Seconds that a rank waits for another. One that ends closes its connections and is missed at once:
# this is for one that hangs, or whose machine is gone. Rank 0 may be in a callback meanwhile.
TIMEOUT = 1800.0
_PATIENCE = 5.0  # seconds, where a signal ends the process
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class RankLostError(RuntimeError):
    """Another rank ended, or did not answer in time."""


class Ranks:
    """One process among `size`, by its number; alone, it has nobody to tell, and nothing costs.

    `num_bytes` counts what came from other ranks; `host_group` is torch's for what is in the host's
    memory, by default the one for all. Methods that exchange something are called by all ranks in
    the same order; they raise what another rank left `together` with, and `RankLostError` where one
    is gone.
    """

    def __init__(
        self, rank: int = 0, size: int = 1, timeout: float = TIMEOUT, host_group: Any = None
    ) -> None:
        self.rank, self.size = rank, size
        self.num_bytes = 0
        self._timeout, self._host_group = timeout, host_group

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which decides, writes and tells."""
        return self.rank == 0

    def by_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; the others do not call `make`."""
        return self.from_first(make() if self.is_first else None)  # type: ignore[return-value]

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank; what others bring is left aside."""
        return self.gathered(value if self.is_first else None)[0]  # type: ignore[return-value]

    def gathered(self, value: T) -> list[T]:
        """Each rank's value, in the order of the ranks."""
        if self.size == 1:
            return [value]
        with interrupts_later():
            found = self._exchange(Message(value, None))
        for rank, message in enumerate(found):
            if message.error is not None:
                raise from_rank(rank, message.error)
        return [message.value for message in found]

    def gathered_rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each rank's tensor, of any shape, in the order of the ranks, on this rank's device.

        Bytes go from memory to memory, between GPUs by NCCL.
        """
        if self.size == 1:
            return [rows]
        import torch

        rows = rows.detach().contiguous()
        with interrupts_later():
            kinds = self.gathered((tuple(rows.shape), rows.dtype))
            found = [torch.empty(shape, dtype=kind, device=rows.device) for shape, kind in kinds]
            found[self.rank] = rows
            self.gathered(None)  # all have room for the rows, or none waits for them
            self._fill(found)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks leave in the same way: an error of one is raised on all.

        Of several, it is that of the lowest rank. Ctrl-C is one where rank 0 hears it; others do
        not. SystemExit is none: it ends its process, which the others miss.
        """
        with contextlib.nullcontext() if self.is_first else no_interrupts():
            try:
                yield
            except (Exception, KeyboardInterrupt) as error:
                self._share(error)
                raise
            self.gathered(None)

    def place(self, device: str | None) -> str | None:
        """The device for this rank's model: on a machine with GPUs each process has its own.

        Alone, or away from GPUs, it is the one that was named.

        Raises:
            ValueError: `device` is one GPU for all, or there are more processes here than GPUs.
        """
        if self.size == 1:
            return device
        import torch

        device = device or ("cuda" if torch.cuda.is_available() else None)
        if device is None or not device.startswith("cuda"):
            return device
        if device != "cuda":
            raise ValueError(
                f"device: got {quoted(device)} for {self.size} processes: leave it out, or write "
                "cuda, and each takes a GPU of its own"
            )
        local_rank, num_gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        index = min(local_rank, num_gpus - 1)  # 0 where a process is shown one GPU, its own
        uuid = num_gpus and str(torch.cuda.get_device_properties(index).uuid)
        found = self.gathered((local_rank < num_gpus, os.uname().nodename, uuid))
        if not all(f[0] for f in found) and len({f[1:] for f in found if f[2]}) < self.size:
            raise ValueError(
                f"device: a machine has more processes than GPUs (this one has {num_gpus}): start "
                "one for each (torchrun --nproc-per-node), or use device cpu"
            )
        torch.cuda.set_device(index)
        # Now: what NCCL takes of the memory is not free when a run is planned.
        self.gathered_rows(torch.zeros(1, device=f"cuda:{index}"))
        return f"cuda:{index}"

    def _share(self, error: BaseException) -> None:
        """Let others raise an error of this rank where they wait for it; perhaps raise theirs.

        Not where it came from them, nor where there is no hearing from them any more.
        """
        if self.size == 1 or isinstance(error, RankLostError) or is_shared(error):
            return
        with no_interrupts():
            found = self._exchange(Message(None, error))
        rank, first = next((r, m.error) for r, m in enumerate(found) if m.error is not None)
        if rank != self.rank:
            raise from_rank(rank, first)
        mark_shared(error)

    def _exchange(self, own: Message) -> list[Message]:
        """Every rank's message, in the order of the ranks."""
        import torch

        content = torch.frombuffer(bytearray(own.packed()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        sizes[self.rank][0] = len(content)
        self._fill(sizes)
        contents = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]
        contents[self.rank] = content
        self._fill(contents)
        return [
            own if rank == self.rank else Message.unpacked(content.numpy().tobytes())
            for rank, content in enumerate(contents)
        ]

    def _fill(self, tensors: list[torch.Tensor]) -> None:
        """Fill in the other ranks' tensors, each as long as its rank's own.

        Waiting is done here, not inside of torch, so that signals come meanwhile: after one that
        will end the process no rank is waited for that may hang.
        """
        from torch import distributed

        group = self._host_group if tensors[0].device.type == "cpu" else None
        try:
            works = [
                distributed.broadcast(tensor, rank, group, async_op=True)
                for rank, tensor in enumerate(tensors)
                if tensor.numel()
            ]
            begun = time.monotonic()
            for work in works:
                while not work.is_completed():
                    waited = time.monotonic() - begun
                    if waited > self._timeout:
                        raise RuntimeError(f"no answer for {self._timeout:.0f} seconds")
                    if min(waited, seconds_to_end()) > _PATIENCE:
                        raise RuntimeError("no answer, and a signal ends this one")
                    time.sleep(min(waited / 10, 0.01))
                work.wait()
        except RuntimeError as error:
            raise RankLostError(
                f"rank {self.rank} of {self.size} lost another one, which ended or hangs: "
                f"{in_one_line(error)}"
            ) from error
        self.num_bytes += sum(t.nbytes for rank, t in enumerate(tensors) if rank != self.rank)


ALONE = Ranks()


def is_first() -> bool:
    """Whether this process, as it was started, is the one that writes and tells."""
    return not _is_among_others() or os.environ["RANK"] == "0"


def join() -> Ranks:
    """The ranks that this process was started among; the first call waits for all of them.

    Raises:
        RankLostError: not all came in time.
    """
    if not _is_among_others():
        return Ranks()
    import torch
    from torch import distributed

    if not distributed.is_initialized():
        try:
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
                timeout=timedelta(seconds=TIMEOUT),
            )
        except RuntimeError as error:
            raise RankLostError(f"not all ranks came together: {in_one_line(error)}") from error
        atexit.register(_leave)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), TIMEOUT, _host_group())


@functools.cache
def _host_group() -> Any:
    """A group for the host's memory, where the first is of GPUs alone, as transformers makes it."""
    from torch import distributed

    if "cpu:" in distributed.get_backend_config():
        return None
    return distributed.new_group(timeout=timedelta(seconds=TIMEOUT), backend="gloo")


def _is_among_others() -> bool:
    return all(os.environ.get(name) for name in _VARIABLES) and os.environ["WORLD_SIZE"] != "1"


def _leave() -> None:
    """End the group of processes, as torch wants it before an interpreter ends."""
    from torch import distributed

    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()
