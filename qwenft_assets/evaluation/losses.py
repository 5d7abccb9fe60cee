"""The losses of every row under every model, in one pass over batches of rows of similar length.

On a GPU rows are laid end to end and read by the flat decoder of training: a pass is launched while the
one before is still computed, and its losses are waited for after the next launch, so that the GPU never
waits for Python. On a CPU they are read by the model's own forward.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any, TypeVar, cast

from qwenft_assets.errors import DeviceError
from qwenft_assets.evaluation.models import ADAPTER, BASE, PEFT_NAMES, WORKING_GIB, using_adapter_of
from qwenft_assets.model.attention import sees_shared_starts
from qwenft_assets.model.batches import common_start, flatten, passes
from qwenft_assets.model.decoder import FlatDecoder, supports
from qwenft_assets.model.device import GIB
from qwenft_assets.model.fsdp import is_sharded
from qwenft_assets.model.head import losses
from qwenft_assets.model.loss import (
    SpanLosses,
    batches_by_length,
    refuse_scaled_logits,
    span_losses,
    spans_of,
)
from qwenft_assets.model.memory import free_cached, is_out_of_memory
from qwenft_assets.model.tokens import TokenRow, lengths_of
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress, no_progress

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

Item = TypeVar("Item")
PendingLosses = Callable[[], list[SpanLosses]]
"""Waits for the losses of a batch that was launched, and returns them."""


def losses_by_model(
    model: Any,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    names: Sequence[str],
    report_progress: ReportProgress = no_progress,
    ranks: Ranks = ALONE,
    *,
    flat: bool | None = None,
) -> Mapping[str, list[SpanLosses]]:
    """Losses of each row under each model, in the order of the rows.

    Each of several processes reads its share of the rows and gets the losses of all.

    Every batch is read by all models before the next one, so that an interrupted run, or a lack of
    memory, shows at once.

    Args:
        model: The PeftModel, with the champion beside it if `names` has it.
        rows: The rows to read.
        batch_tokens: Most tokens of a batch, padding included if there is any.
        names: Some of BASE, ADAPTER and CHAMPION.
        report_progress: Called after each batch.
        ranks: The processes that share the rows.
        flat: Read rows without padding, by the decoder of training, if it supports the model's family;
            None: on a GPU. On a CPU the model's own forward is used, which no code here has changed.
    """
    sharded = is_sharded(model)
    on_gpu = model.device.type == "cuda"
    wanted = on_gpu and not sharded if flat is None else flat
    adapters = [PEFT_NAMES[name] for name in names if name != BASE] or [PEFT_NAMES[ADAPTER]]
    decoder = flat_decoder(model, adapters) if wanted else None
    own = ranks.share(lengths_of(rows))
    cut = partial(flat_batches, decoder) if decoder else batches_by_length
    batches = [*cut([rows[n] for n in own], batch_tokens)]
    limit = MemoryLimit()
    idle = ranks.largest(len(batches)) - len(batches) if sharded else 0

    def launched() -> Iterator[tuple[list[int], dict[str, PendingLosses]]]:
        for chosen in batches:
            indices = [own[n] for n in chosen]
            batch = [rows[n] for n in indices]
            reading = {name: partial(_read, model, decoder, name) for name in names}
            yield (
                indices,
                {
                    name: _within_memory(read, batch, limit, can_retry=not sharded)
                    for name, read in reading.items()
                },
            )

    found: dict[str, dict[int, SpanLosses]] = {name: {} for name in names}
    for indices, pending in _one_behind(launched()):
        for name, wait_for_losses in pending.items():
            found[name].update(zip(indices, wait_for_losses(), strict=True))
        report_progress(len(found[names[0]]), len(own), "held-out rows")
    for _ in range(
        idle * len(names)
    ):  # all processes of a sharded model run the same number of passes
        span_losses(model, [rows[0]])
    for of_model in found.values():
        of_model.update(ranks.gather(list(of_model.items())))
    return {name: [of_model[n] for n in range(len(rows))] for name, of_model in found.items()}


def _one_behind(items: Iterator[Item]) -> Iterator[Item]:
    """Each item after the next one is made: the GPU computes that one while this one is summed."""
    for item, _ in pairwise(chain(items, [None])):
        yield cast("Item", item)


def _read(
    model: Any, decoder: FlatDecoder | None, name: str, batch: Sequence[TokenRow]
) -> PendingLosses:
    if decoder is not None:
        return flat_losses(decoder, batch, None if name == BASE else PEFT_NAMES[name])
    with using_adapter_of(model, name):
        losses = span_losses(model, batch)
    return lambda: losses


def flat_decoder(model: Any, adapters: Sequence[str]) -> FlatDecoder | None:
    """A decoder of rows without padding; None for model families that it does not support.

    4-bit weights become bf16 once if memory has room for both: the same numbers, without converting
    them for every product.

    Args:
        model: A PeftModel.
        adapters: Names of those of its adapters that will be used.

    Raises:
        EvaluationError: The model transforms its logits in a way the head does not.
    """
    import torch

    causal = model.get_base_model()
    if not supports(causal.config):
        return None
    refuse_scaled_logits(causal.config)
    in_4bit = [p for p in causal.parameters() if hasattr(p, "quant_state")]
    if not in_4bit:
        weights = "fp32" if causal.dtype == torch.float32 else "bf16"
        return FlatDecoder(model, weights=weights, adapters=adapters)
    weights_in_4bit = sum(p.quant_state.shape.numel() for p in in_4bit)
    keep_4bit = not has_room_in_bf16(weights_in_4bit, torch.cuda.mem_get_info()[0])
    return FlatDecoder(model, weights="nf4", keep_4bit=keep_4bit, adapters=adapters)


def has_room_in_bf16(weights: int, free_bytes: int) -> bool:
    """Whether so many weights fit in bf16 beside what is in memory already, with room to work."""
    return 2 * weights / GIB + WORKING_GIB < free_bytes / GIB


def flat_batches(
    decoder: FlatDecoder, rows: Sequence[TokenRow], batch_tokens: int
) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `batch_tokens` computed tokens, longest rows first.

    A longer row is a batch of its own.
    """
    shared = _shared_start(decoder, rows)
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n].input_ids))
    own_tokens = [len(rows[n].input_ids) - shared for n in order]
    for batch in passes(own_tokens, batch_tokens - shared):
        yield [order[n] for n in batch]


def flat_losses(
    decoder: FlatDecoder, rows: Sequence[TokenRow], adapter: str | None
) -> PendingLosses:
    """Launch a pass over the rows of one batch.

    Args:
        decoder: The flat decoder of the model.
        rows: The rows of one batch.
        adapter: PEFT's name of the adapter to use; None for the base alone.
    """
    import torch

    if adapter is not None:
        decoder.use_adapter(adapter)
    device = decoder.head.device.type
    with torch.no_grad():
        batch = flatten(rows, "full", device, _shared_start(decoder, rows))
        hidden = decoder.hidden_states(batch, adapted=adapter is not None)
        of_tokens = losses(hidden[batch.counted], decoder.head, batch.targets)
    on_host = _to_host(of_tokens)
    of_rows = batch.shared.counted_of_rows if batch.shared else slice(None)
    return lambda: spans_of(rows, on_host()[of_rows])


def _shared_start(decoder: FlatDecoder, rows: Sequence[TokenRow]) -> int:
    return common_start(rows) if sees_shared_starts(decoder.head.device.type) else 0


def _to_host(values: "torch.Tensor") -> "Callable[[], npt.NDArray[np.float32]]":
    """Start copying values to the CPU; the returned function waits for them."""
    import torch

    copied = values.to("cpu", non_blocking=True)  # from a GPU into pinned memory
    if not values.is_cuda:
        return copied.numpy

    arrived = torch.cuda.Event()
    arrived.record()

    def waited() -> "npt.NDArray[np.float32]":
        arrived.synchronize()
        return copied.numpy()

    return waited


@dataclass
class MemoryLimit:
    """The smallest batch that ran out of memory so far; batches of that size are not tried again."""

    tokens: float = math.inf
    """Tokens of that batch, padding included."""


def _within_memory(
    read: Callable[[Sequence[TokenRow]], PendingLosses],
    batch: Sequence[TokenRow],
    limit: MemoryLimit,
    *,
    can_retry: bool = True,
) -> PendingLosses:
    """Losses of a batch, halved as often as memory requires: no row's loss depends on other rows."""
    tokens = len(batch) * max(len(row.input_ids) for row in batch)
    if tokens < limit.tokens or len(batch) == 1:
        try:
            return read(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            _refuse_what_cannot_be_halved(batch, error, can_retry=can_retry)
        # Not in the handler: there the traceback still holds the tensors of the failed pass.
        free_cached()
        limit.tokens = tokens
    middle = len(batch) // 2
    halves = [_within_memory(read, half, limit) for half in (batch[:middle], batch[middle:])]
    return lambda: [loss for half in halves for loss in half()]


def _refuse_what_cannot_be_halved(
    batch: Sequence[TokenRow], error: RuntimeError, *, can_retry: bool
) -> None:
    if not can_retry:
        raise DeviceError(
            f"the evaluation ran out of memory with {len(batch)} rows, and processes that share a "
            "model cannot cut them in two. Lower evaluation.batch_tokens."
        ) from error
    if len(batch) == 1:
        raise DeviceError(
            f"the evaluation ran out of memory with a single row of {len(batch[0].input_ids)} "
            "tokens. End what else holds the GPU (nvidia-smi shows it), or lower "
            "training.max_length_tokens."
        ) from error
