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
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from greater_fast.wording import in_one_line

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
# Seconds that a rank waits for another. One that dies closes its connections and is missed at once:
# this is for one that hangs, or whose machine is gone. Rank 0 may be in a callback meanwhile.
TIMEOUT = 1800.0
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


class RankLostError(RuntimeError):
    """Another rank ended, or did not answer in time."""


class Ranks:
    """One process among `size`, by its number; alone, it has nobody to tell, and nothing costs.

    `device` is where this rank's model belongs (None: as for any process). `num_bytes` counts what
    came from other ranks. All methods are for all ranks, in the same order.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        device: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.num_bytes = 0
        self._timeout = timeout
        self._is_broken = False

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which decides, writes and tells."""
        return self.rank == 0

    def from_first(self, value: T) -> T:
        """Rank 0's value, on every rank; what others bring is left aside.

        Raises:
            RankLostError: a rank is gone. Whatever another rank left `together` with.
        """
        return self.gathered(value if self.is_first else None)[0]  # type: ignore[return-value]

    def gathered(self, value: T) -> list[T]:
        """Each rank's value, in the order of the ranks; errors as of `from_first`."""
        if self.size == 1:
            return [value]
        with _interrupts_later():
            found = self._exchange(_Message(value, None))
        for rank, message in enumerate(found):
            if message.error is not None:
                raise _shared(message.error, rank)
        return [message.value for message in found]

    def gathered_rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """Each rank's tensor, in the order of the ranks, on this rank's device; any shapes.

        As `gathered`, but bytes go from memory to memory: by NCCL between GPUs.
        """
        if self.size == 1:
            return [rows]
        import torch

        rows = rows.detach().contiguous()
        with _interrupts_later():
            found = []
            for rank, (shape, dtype) in enumerate(self.gathered((tuple(rows.shape), rows.dtype))):
                is_own = rank == self.rank
                found.append(
                    rows if is_own else torch.empty(shape, dtype=dtype, device=rows.device)
                )
            self._broadcast(found)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks leave in the same way: an error of one is raised on all.

        Of several, it is that of the lowest rank. Ctrl-C is such an error too; SystemExit is none:
        it ends its process, which the others miss.
        """
        try:
            yield
        except (Exception, KeyboardInterrupt) as error:
            self._share(error)
            raise
        self.gathered(None)

    def _share(self, error: BaseException) -> None:
        """Let others raise an error of this rank, where they wait for it; perhaps raise theirs.

        Not where it came from them, nor where there is no hearing from them any more.
        """
        if self.size == 1 or self._is_broken or getattr(error, "is_shared", False):
            return
        with _interrupts_later(heard=False):
            found = self._exchange(_Message(None, error))
        rank, first = next((r, m.error) for r, m in enumerate(found) if m.error is not None)
        if rank != self.rank:
            raise _shared(first, rank)
        _mark(error)

    def _exchange(self, own: _Message) -> list[_Message]:
        """Every rank's message, in the order of the ranks."""
        import torch

        content = torch.frombuffer(bytearray(own.packed()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        sizes[self.rank][0] = len(content)
        self._broadcast(sizes)
        contents = [torch.empty(int(size), dtype=torch.uint8) for size in sizes]
        contents[self.rank] = content
        self._broadcast(contents)
        return [
            own if rank == self.rank else _Message.unpacked(bytes(c.numpy()))
            for rank, c in enumerate(contents)
        ]

    def _broadcast(self, tensors: list[torch.Tensor]) -> None:
        """Fill in the tensors of other ranks; they have the right sizes.

        Waiting is done here, not inside of torch, so that a signal is heard meanwhile.
        """
        from torch import distributed

        if self._is_broken:
            raise RankLostError("another rank is gone")
        try:
            works = [
                distributed.broadcast(tensor, rank, async_op=True)
                for rank, tensor in enumerate(tensors)
                if tensor.numel()
            ]
            begun = time.monotonic()
            for work in works:
                while not work.is_completed():
                    waited = time.monotonic() - begun
                    if waited > self._timeout:
                        raise RuntimeError(f"no answer for {self._timeout:.0f} seconds")
                    time.sleep(min(waited / 10, 0.01))
                work.wait()
        except RuntimeError as error:
            self._is_broken = True
            raise RankLostError(
                f"rank {self.rank} of {self.size} lost another one, which ended or hangs: "
                f"{in_one_line(error)}"
            ) from error
        self.num_bytes += sum(
            tensor.nbytes for rank, tensor in enumerate(tensors) if rank != self.rank
        )


ALONE = Ranks()


def is_among_others() -> bool:
    """Whether this process was started as one of several."""
    return all(os.environ.get(name) for name in _VARIABLES) and os.environ["WORLD_SIZE"] != "1"


def is_first() -> bool:
    """Whether this process is the one that writes and tells, as far as the environment says."""
    return not is_among_others() or os.environ["RANK"] == "0"


def join(device: str | None = None, timeout: float = TIMEOUT) -> Ranks:
    """The ranks that this process was started among; waits for all of them, the first time.

    On a machine with GPUs rank by rank takes one, unless `device` says cpu.

    Raises:
        ValueError: there are more processes on this machine than GPUs, or `device` names one GPU.
        RankLostError: not all ranks came in time.
    """
    if not is_among_others():
        return Ranks(device=device)
    return _join(device, timeout)


@functools.cache
def _join(device: str | None, timeout: float) -> Ranks:
    import torch
    from torch import distributed

    if device is None and torch.cuda.is_available():
        device = "cuda"
    local_rank = int(os.environ["LOCAL_RANK"])
    on_gpu = device is not None and device.startswith("cuda")
    if on_gpu:
        if device != "cuda":
            raise ValueError(
                f"device: got {device} for all ranks: write cuda, and each takes its own"
            )
        num_gpus = torch.cuda.device_count()
        if local_rank >= num_gpus:
            raise ValueError(
                f"process {local_rank} of this machine has no GPU, of which there are {num_gpus}: "
                f"start {num_gpus} (torchrun --nproc-per-node {num_gpus}), or use device cpu"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
        try:
            distributed.init_process_group(backend, timeout=timedelta(seconds=timeout))
        except RuntimeError as error:
            raise RankLostError(f"not all ranks came together: {error}") from error
        atexit.register(_leave)
    ranks = Ranks(distributed.get_rank(), distributed.get_world_size(), device, timeout)
    if on_gpu:  # now: what NCCL takes of the memory is not free when a run is planned
        ranks.gathered_rows(torch.zeros(1, device=device))
    return ranks


def _leave() -> None:
    """End the group of processes, as torch wants it before an interpreter ends."""
    from torch import distributed

    if distributed.is_initialized():
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()


class _Message(NamedTuple):
    """A value, or what came in its place."""

    value: Any
    error: BaseException | None

    def packed(self) -> bytes:
        """Bytes for other ranks; an error that cannot be pickled goes as its text."""
        if self.error is None:
            return pickle.dumps((self.value, None))
        frames = "".join(traceback.format_exception(self.error))
        try:
            packed = pickle.dumps((frames, self.error))
            pickle.loads(packed)
        except Exception:  # whatever a class of somebody else's does
            packed = pickle.dumps(
                (frames, RuntimeError(f"{type(self.error).__name__}: {self.error}"))
            )
        return packed

    @classmethod
    def unpacked(cls, content: bytes) -> _Message:
        """What another rank sent; its frames come as the cause."""
        value, error = pickle.loads(content)
        if error is not None:
            error.__cause__ = _ElsewhereError(f"\n{value}")
        return cls(value, error)


class _ElsewhereError(Exception):
    """An error as it stood on another rank, as text."""


def _shared(error: BaseException, rank: int) -> BaseException:
    """An error of another rank, to be raised here too."""
    error.add_note(f"on rank {rank}")
    return _mark(error)


def _mark(error: BaseException) -> BaseException:
    """An error that all ranks know by now."""
    with contextlib.suppress(AttributeError):  # of a class with slots
        error.is_shared = True  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def _interrupts_later(heard: bool = True) -> Iterator[None]:
    """Keep a Ctrl-C to the end of the block: an exchange that one rank leaves halfway has no end.

    Not `heard`, it is forgotten.
    """
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not callable(before):
        yield
        return
    kept: list[Any] = []
    signal.signal(signal.SIGINT, lambda number, frame: kept.append(frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if kept and heard:
        before(signal.SIGINT, kept[0])
