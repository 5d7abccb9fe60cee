"""Every row under every model, in one pass over batches of rows of like length."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

from qwenft_assets.errors import AdapterError, DeviceError
from qwenft_assets.evaluation.flat_losses import Later, flat_batches, flat_decoder, flat_losses
from qwenft_assets.model.decoder import FlatDecoder
from qwenft_assets.model.fsdp import is_sharded
from qwenft_assets.model.loss import SpanLosses, batches_by_length, span_losses
from qwenft_assets.model.memory import free_cached, is_out_of_memory
from qwenft_assets.model.tokens import TokenRow, lengths_of
from qwenft_assets.processes.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress, no_progress

Item = TypeVar("Item")
BASE, ADAPTER, CHAMPION = "base", "adapter", "champion"
PEFT_NAMES = {ADAPTER: "default", CHAMPION: "champion"}


def add_champion(model: Any, folder: Path) -> None:
    """Put the champion's adapter beside the candidate's, on the same base weights.

    Raises:
        AdapterError: The folder holds no adapter that fits the base model.
    """
    from safetensors import SafetensorError

    try:
        model.load_adapter(folder, adapter_name=PEFT_NAMES[CHAMPION], is_trainable=False)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise AdapterError(
            f"{folder}: the champion does not load on this base model "
            f"({str(error).splitlines()[0][:200]}). Roll it back with `qwenft releases rollback`."
        ) from error
    model.eval()


@contextmanager
def using_adapter_of(model: Any, who: str) -> Iterator[None]:
    """The PeftModel as the base (adapters switched off), the adapter, or the champion."""
    if who == BASE:
        with model.disable_adapter():
            yield
    else:
        model.set_adapter(PEFT_NAMES[who])
        yield


def losses_by_model(
    model: Any,
    rows: Sequence[TokenRow],
    batch_tokens: int,
    who: Sequence[str],
    report_progress: ReportProgress = no_progress,
    ranks: Ranks = ALONE,
    *,
    flat: bool | None = None,
) -> Mapping[str, list[SpanLosses]]:
    """Each row's losses under each of `who`, in the order of the rows.

    Of several processes each reads its share of the rows, and gets the losses of all.

    Every batch is read by all models before the next one, so that a run that is cut off, or memory
    that does not suffice, shows at once.

    Args:
        model: The PeftModel, with the champion beside it where `who` names it.
        rows: To be read.
        batch_tokens: Of a batch, with padding where there is any.
        who: Of BASE, ADAPTER and CHAMPION.
        report_progress: Called after each batch.
        ranks: The processes that share the rows.
        flat: Read rows without padding, by the decoder of training, where it knows the family; None:
            on a GPU. The CPU takes the model's own forward, which nothing here has touched.
    """
    together = is_sharded(model)
    on_gpu = model.device.type == "cuda"
    wanted = on_gpu and not together if flat is None else flat
    adapters = [PEFT_NAMES[name] for name in who if name != BASE] or [PEFT_NAMES[ADAPTER]]
    decoder = flat_decoder(model, adapters) if wanted else None
    own = ranks.share(lengths_of(rows))
    cut = partial(flat_batches, decoder) if decoder else batches_by_length
    batches = [*cut([rows[n] for n in own], batch_tokens)]
    room = Room()
    idle = ranks.largest(len(batches)) - len(batches) if together else 0

    def begun() -> Iterator[tuple[list[int], dict[str, Later]]]:
        for chosen in batches:
            indices = [own[n] for n in chosen]
            batch = [rows[n] for n in indices]
            reading = {name: partial(_read, model, decoder, name) for name in who}
            yield (
                indices,
                {
                    name: _within_memory(read, batch, room, can_retry=not together)
                    for name, read in reading.items()
                },
            )

    found: dict[str, dict[int, SpanLosses]] = {name: {} for name in who}
    for indices, losses in _one_behind(begun()):
        for name, of_batch in losses.items():
            found[name].update(zip(indices, of_batch(), strict=True))
        report_progress(len(found[who[0]]), len(own), "held-out rows")
    for _ in range(idle * len(who)):  # of a sharded model all run as many passes
        span_losses(model, [rows[0]])
    for of_model in found.values():
        of_model.update(ranks.gather(list(of_model.items())))
    return {name: [of_model[n] for n in range(len(rows))] for name, of_model in found.items()}


def _one_behind(items: Iterator[Item]) -> Iterator[Item]:
    """Each item once the next one is made: the GPU works on that while this one's losses are summed."""
    for item, _ in pairwise(chain(items, [None])):
        yield cast("Item", item)


def _read(model: Any, decoder: FlatDecoder | None, name: str, batch: Sequence[TokenRow]) -> Later:
    if decoder is not None:
        return flat_losses(decoder, batch, None if name == BASE else PEFT_NAMES[name])
    with using_adapter_of(model, name):
        losses = span_losses(model, batch)
    return lambda: losses


@dataclass
class Room:
    """What memory has no room for, as far as it is known: as large a batch is not tried again."""

    too_many_tokens: float = math.inf
    """Of a batch, with padding."""


def _within_memory(
    read: Callable[[Sequence[TokenRow]], Later],
    batch: Sequence[TokenRow],
    room: Room,
    *,
    can_retry: bool = True,
) -> Later:
    """Losses of a batch, cut in two as often as memory asks for: no row's loss depends on others."""
    tokens = len(batch) * max(len(row.input_ids) for row in batch)
    if tokens < room.too_many_tokens or len(batch) == 1:
        try:
            return read(batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            _refuse_what_cannot_be_cut(batch, error, can_retry=can_retry)
        # Not in the handler: there the traceback still holds the tensors of the failed pass.
        free_cached()
        room.too_many_tokens = tokens
    middle = len(batch) // 2
    halves = [_within_memory(read, half, room) for half in (batch[:middle], batch[middle:])]
    return lambda: [loss for half in halves for loss in half()]


def _refuse_what_cannot_be_cut(
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
