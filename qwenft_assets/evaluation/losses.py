"""Every row under every model, in one pass over batches of rows of like length."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qwenft_assets.errors import AdapterError, DeviceError
from qwenft_assets.launching.ranks import ALONE, Ranks
from qwenft_assets.progress import ReportProgress, no_progress
from qwenft_assets.training.batches import flatten
from qwenft_assets.training.decoder import FlatDecoder, supports
from qwenft_assets.training.device import GIB
from qwenft_assets.training.fsdp import is_sharded
from qwenft_assets.training.loss import (
    HiddenStates,
    SpanLosses,
    batches_by_length,
    span_losses,
)
from qwenft_assets.training.out_of_memory import free_cached, is_out_of_memory
from qwenft_assets.training.tokens import TokenRow, lengths_of

BASE, ADAPTER, CHAMPION = "base", "adapter", "champion"
WORKING_GIB = 4.0
"""What a batch takes beside the weights, generously."""
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
def acting_as(model: Any, who: str) -> Iterator[None]:
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
        batch_tokens: Of a batch, with padding.
        who: Of BASE, ADAPTER and CHAMPION.
        report_progress: Called after each batch.
        ranks: The processes that share the rows.
        flat: Read rows without padding, by the decoder of training, where it knows the family; None:
            on a GPU. The CPU takes the model's own forward, which nothing here has touched.
    """
    together = is_sharded(model)
    on_gpu = model.device.type == "cuda"
    decoder = flat_decoder(model) if (on_gpu and not together if flat is None else flat) else None
    found: dict[str, dict[int, SpanLosses]] = {name: {} for name in who}
    own = ranks.share(lengths_of(rows))
    batches = [*batches_by_length([rows[n] for n in own], batch_tokens)]
    idle = ranks.largest(len(batches)) - len(batches) if together else 0
    for chosen in batches:
        indices = [own[n] for n in chosen]
        batch = [rows[n] for n in indices]
        for name in who:
            with acting_as(model, name):
                hidden_states = _flat_hidden_states(decoder, name) if decoder else None
                losses = _within_memory(model, batch, hidden_states, can_retry=not together)
            found[name].update(zip(indices, losses, strict=True))
        report_progress(len(found[who[0]]), len(own), "held-out rows")
    for _ in range(idle * len(who)):  # of a sharded model all run as many passes
        span_losses(model, [rows[0]])
    for of_model in found.values():
        of_model.update(ranks.gather(list(of_model.items())))
    return {name: [of_model[n] for n in range(len(rows))] for name, of_model in found.items()}


def flat_decoder(model: Any) -> FlatDecoder | None:
    """The model without padding and with fewer, larger products; None for families it does not know.

    4-bit weights become bf16 once, where memory has room for both: the same numbers, without the
    work of turning them into bf16 for every product.
    """
    import torch

    causal = model.get_base_model()
    if not supports(causal.config):
        return None
    in_4bit = [p for p in causal.parameters() if hasattr(p, "quant_state")]
    if not in_4bit:
        weights = "fp32" if causal.dtype == torch.float32 else "bf16"
        return FlatDecoder(model, weights=weights, one_adapter=False)
    weights_in_4bit = sum(p.quant_state.shape.numel() for p in in_4bit)
    keep_4bit = not has_room_in_bf16(weights_in_4bit, torch.cuda.mem_get_info()[0])
    return FlatDecoder(model, weights="nf4", keep_4bit=keep_4bit, one_adapter=False)


def has_room_in_bf16(weights: int, free_bytes: int) -> bool:
    """Whether so many weights fit beside what is held already, with room to work in."""
    return 2 * weights / GIB + WORKING_GIB < free_bytes / GIB


def _flat_hidden_states(decoder: FlatDecoder, who: str) -> HiddenStates:
    if who != BASE:
        decoder.wear(PEFT_NAMES[who])

    def hidden_states(rows: Sequence[TokenRow]) -> Any:
        batch = flatten(rows, "full", decoder.head.device.type)
        return decoder.hidden_states(batch, adapted=who != BASE)

    return hidden_states


def _within_memory(
    model: Any,
    batch: Sequence[TokenRow],
    hidden_states: HiddenStates | None,
    *,
    can_retry: bool = True,
) -> list[SpanLosses]:
    """Losses of a batch, cut in two as often as memory asks for: no row's loss depends on others."""
    try:
        return span_losses(model, batch, hidden_states)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
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
    # Not in the handler: there the traceback still holds the tensors of the failed pass.
    free_cached()
    middle = len(batch) // 2
    halves = batch[:middle], batch[middle:]
    return [loss for half in halves for loss in _within_memory(model, half, hidden_states)]
