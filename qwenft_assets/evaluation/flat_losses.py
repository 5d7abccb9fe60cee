"""Losses of rows laid end to end, by the decoder of training: on a GPU, without waiting for it.

A pass is begun while the one before is still computed; its losses are asked for when the next is under
way. So the GPU never stands still while Python makes a batch or sums one up.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qwenft_assets.model.attention import sees_shared_starts
from qwenft_assets.model.batches import common_start, flatten, passes
from qwenft_assets.model.decoder import FlatDecoder, supports
from qwenft_assets.model.device import GIB
from qwenft_assets.model.head import losses
from qwenft_assets.model.loss import SpanLosses, refuse_scaled_logits, spans_of
from qwenft_assets.model.tokens import TokenRow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

WORKING_GIB = 4.0
"""What a batch takes beside the weights, generously."""

Later = Callable[[], list[SpanLosses]]
"""Losses that are asked for once they are needed; the call waits for them."""


def flat_decoder(model: Any, adapters: Sequence[str]) -> FlatDecoder | None:
    """The model without padding and with fewer, larger products; None for families it does not know.

    4-bit weights become bf16 once, where memory has room for both: the same numbers, without the
    work of turning them into bf16 for every product.

    Args:
        model: A PeftModel.
        adapters: Of its adapters, those that will be read with.

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
    """Whether so many weights fit beside what is held already, with room to work in."""
    return 2 * weights / GIB + WORKING_GIB < free_bytes / GIB


def flat_batches(
    decoder: FlatDecoder, rows: Sequence[TokenRow], batch_tokens: int
) -> Iterator[list[int]]:
    """Indices of rows in batches of at most `batch_tokens` to compute, longest rows first.

    A row that is longer is a batch of its own.
    """
    shared = _shared_start(decoder, rows)
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n].input_ids))
    own_tokens = [len(rows[n].input_ids) - shared for n in order]
    for batch in passes(own_tokens, batch_tokens - shared):
        yield [order[n] for n in batch]


def flat_losses(decoder: FlatDecoder, rows: Sequence[TokenRow], adapter: str | None) -> Later:
    """Begin to read rows.

    Args:
        decoder: Of the model.
        rows: Of one batch.
        adapter: That the model wears; None for the base alone.
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
