"""The processes that do one job together: the rank of this one, and collective operations.

torchrun.py or Ray Train starts them; accelerate carries their messages. All of them take the same steps
over the same rows and hold the same adapter; only the first writes, logs and publishes. For a single
process every operation is the identity.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(days=7)
"""How long one process waits for another, which may be downloading a model or waiting for a lock. Nobody
waits for a process that died: the launcher ends the others."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """One of `size` processes that do the same job."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process writes, logs and publishes."""
        return self.rank == 0

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Indices of this process's rows, ascending; all rows if it is the only process.

        Args:
            lengths: Tokens of each row.
        """
        return shares(lengths, self.size)[self.rank]

    def sum(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The sum of a tensor over all processes, the same to the last bit on each."""
        if self.size == 1:
            return tensor
        from accelerate.utils import reduce

        summed: Any = reduce(tensor, reduction="sum")
        return summed

    def sum_numbers(self, *numbers: float) -> list[float]:
        """Sums of numbers over all processes, exchanged on the CPU without waiting for a GPU."""
        if self.size == 1:
            return list(numbers)
        import torch

        return self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether any process has set it."""
        return [number > 0 for number in self.sum_numbers(*(float(flag) for flag in flags))]

    def largest(self, number: int) -> int:
        """The largest value of a number over all processes."""
        mine = [0] * self.size
        mine[self.rank] = number
        return int(max(self.sum_numbers(*mine)))

    def gather(self, items: Sequence[Value]) -> list[Value]:
        """The items of all processes, in order of rank."""
        if self.size == 1:
            return list(items)
        from accelerate.utils import gather_object

        found: Any = gather_object(list(items))
        return found

    def broadcast(self, value: Value) -> Value:
        """The first process's value; the others' values are ignored."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the first process, then in the others, which find what it made."""
        if self.size == 1:
            yield
            return
        from accelerate import PartialState

        with PartialState().main_process_first():
            yield


ALONE = Ranks()


def shares(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Divide rows among processes by tokens: longest first, each to the process with the fewest.

    The largest share is at most 4/3 - 1/(3 size) times the best possible one (Graham, 1969).

    Returns:
        Ascending row indices for each process; empty for some if there are too few rows.
    """
    chosen: list[list[int]] = [[] for _ in range(size)]
    tokens = [0] * size
    for index in sorted(range(len(lengths)), key=lambda n: (-lengths[n], n)):
        lightest = min(range(size), key=lambda rank: (tokens[rank], rank))
        chosen[lightest].append(index)
        tokens[lightest] += lengths[index]
    return [sorted(indices) for indices in chosen]


@contextmanager
def process_group(device: str) -> Iterator[Ranks]:
    """This process's ranks; ALONE if it was started by itself.

    Args:
        device: `cuda` or `cpu`.
    """
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    import torch
    from accelerate import PartialState

    ours = not torch.distributed.is_initialized()
    if ours:
        # The CPU in any case: small messages go there, past what the GPU still has to do.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    state = PartialState(cpu=device != "cuda")
    if device != "cuda":
        # accelerate says cpu:0, which torch takes for another device: models would be copied there,
        # and an optimizer's state could not be read back.
        state.device = torch.device("cpu")
    yield Ranks(state.process_index, state.num_processes)
    state.wait_for_everyone()
    if ours:
        state.destroy_process_group()
