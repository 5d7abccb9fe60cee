"""The processes that do one job together: which of them this is, and what they tell each other.

They are started by torchrun.py or by Ray Train, and accelerate carries what they exchange. All take the
same steps over the same rows and hold the same adapter; the first one alone writes, logs and publishes.
One process by itself meets none of this.
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
"""How long one waits for another, which may be fetching a model or waiting for a lock. A process that
died is not waited for: whoever started them ends the rest."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
    """One process among `size` that do the same job."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this one writes, logs and publishes."""
        return self.rank == 0

    def share(self, lengths: Sequence[int]) -> list[int]:
        """Indices of the rows that are this process's, in their order; of all rows if it is alone.

        Args:
            lengths: Of the rows, in tokens.
        """
        return shares(lengths, self.size)[self.rank]

    def sum(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """The sum of everyone's tensor, the same to the last bit everywhere."""
        if self.size == 1:
            return tensor
        from accelerate.utils import reduce

        summed: Any = reduce(tensor, reduction="sum")
        return summed

    def sum_numbers(self, *numbers: float) -> list[float]:
        """Sums of everyone's numbers; exchanged on the CPU, so that no GPU is waited for."""
        if self.size == 1:
            return list(numbers)
        import torch

        return self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether anyone has set it."""
        return [number > 0 for number in self.sum_numbers(*(float(flag) for flag in flags))]

    def largest(self, number: int) -> int:
        """The largest of everyone's numbers."""
        mine = [0] * self.size
        mine[self.rank] = number
        return int(max(self.sum_numbers(*mine)))

    def gather(self, items: Sequence[Value]) -> list[Value]:
        """Everyone's items, those of the first process first."""
        if self.size == 1:
            return list(items)
        from accelerate.utils import gather_object

        found: Any = gather_object(list(items))
        return found

    def broadcast(self, value: Value) -> Value:
        """The first process's value; what the others give is not looked at."""
        if self.size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        values = [value]
        broadcast_object_list(values)
        return values[0]

    def barrier(self) -> None:
        """Wait until everyone is here."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The block, by the first process, and then by the others, which find what it made."""
        if self.size == 1:
            yield
            return
        from accelerate import PartialState

        with PartialState().main_process_first():
            yield


ALONE = Ranks()


def shares(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Rows over processes so that each has about as many tokens: longest first, to whom has least.

    At most 4/3 - 1/(3 size) times the smallest largest share (Graham, 1969); the same everywhere.

    Returns:
        Indices for each process, each in the order of the rows; some are empty where rows are few.
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
    """The processes that were started with this one; it alone where nobody started others.

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
        # On the CPU as well in any case: small things go there, past what the GPU still has to do.
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    state = PartialState(cpu=device != "cuda")
    if device != "cuda":
        # accelerate says cpu:0, which to torch is another place: models are copied there, and the
        # state of an optimizer cannot be read back.
        state.device = torch.device("cpu")
    yield Ranks(state.process_index, state.num_processes)
    state.wait_for_everyone()
    if ours:
        state.destroy_process_group()
