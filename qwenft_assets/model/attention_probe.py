"""Which attention a library really runs on a flat batch, and that no row sees another.

A library picks its kernel by what is installed, and falls back in silence: to a call a row, half the
speed, or to attention across rows, which trains something else. So both are measured before training.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qwenft_assets.errors import DeviceError
from qwenft_assets.model.batches import flatten
from qwenft_assets.model.tokens import TokenRow

if TYPE_CHECKING:
    import torch

    from qwenft_assets.model.engines import FlatForward

PROBED_ROWS = 3
PROBED_TOKENS = 96
STEP_TOKENS = 13
"""Each row is that much shorter than the one before: equal lengths would go as one batch."""
TOLERANCE_OF_MEAN = {"float32": 1e-3, "bfloat16": 0.1}
"""Nats per token by which a row's losses may differ from those alone: another order of sums."""
TOLERANCE_OF_ANY = {"float32": 1e-3, "bfloat16": 0.25}
"""Nats by which a token's loss may move when another row's content changes: not at all, unless
a kernel is tuned in between; attention across rows moves some by more."""


def probe_attention(
    forward: "FlatForward", model: Any, rows: Sequence[TokenRow], device: str
) -> str:
    """The kernel's name and its calls a pass, as `varlen_flash x 28`.

    Raises:
        DeviceError: Attention runs once a row on a GPU, cannot be seen, or a row sees another one.
    """
    import torch

    chosen = _some(rows)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if len(chosen) > 1:
                _require_rows_apart(forward, chosen, device)
            path, calls = _calls(forward, chosen, device)
    finally:
        model.train(was_training)
    layers = model.get_base_model().config.num_hidden_layers
    if calls == 0:
        raise DeviceError(
            "training.engine: unsloth runs an attention that cannot be recognised, so that nothing "
            "says whether it is the fast one. Set training.engine to auto."
        )
    if calls > layers and device == "cuda":
        raise DeviceError(
            f"training.engine: unsloth runs attention {calls} times for {layers} layers and "
            f"{len(chosen)} rows, once for each row: half the speed. Install torch 2.12 or newer, or "
            "set training.engine to auto."
        )
    return f"{path} x {calls}"


def _some(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """A few rows, the ends of long ones, where they differ most."""
    chosen: list[TokenRow] = []
    for n in range(min(PROBED_ROWS, len(rows))):
        row, length = rows[n], PROBED_TOKENS - n * STEP_TOKENS
        chosen.append(replace(row, input_ids=list(row.input_ids[-length:]), answer_start=0))
    return chosen


def _require_rows_apart(forward: "FlatForward", rows: list[TokenRow], device: str) -> None:
    together = _losses(forward, rows, device)
    kind = str(forward.head.dtype).removeprefix("torch.")
    alone = [_losses(forward, [row], device)[0] for row in rows]
    apart = max(
        float((one - other).abs().mean()) for one, other in zip(together, alone, strict=True)
    )
    first = rows[0]
    other_first = replace(first, input_ids=first.input_ids[:1] * len(first.input_ids))
    moved = _losses(forward, [other_first, *rows[1:]], device)
    leak = max(
        float((one - other).abs().max()) for one, other in zip(together[1:], moved[1:], strict=True)
    )
    if apart > TOLERANCE_OF_MEAN[kind] or leak > TOLERANCE_OF_ANY[kind]:
        raise DeviceError(
            f"training.engine: unsloth lets rows of a flat batch see each other here: their losses are "
            f"{apart:.3f} nats from those alone, and {leak:.3f} off when another row changes. Set "
            "training.batching to padded, or training.engine to auto."
        )


def _losses(forward: "FlatForward", rows: list[TokenRow], device: str) -> "list[torch.Tensor]":
    """Losses of each row's tokens but the first."""
    from torch.nn.functional import cross_entropy

    batch = flatten(rows, "full", device)
    hidden = forward.hidden_states(batch)[batch.counted]
    logits = (hidden @ forward.head.t()).float()
    of_tokens = cross_entropy(logits, batch.targets, reduction="none")
    return list(of_tokens.split([length - 1 for length in batch.lengths]))


def _calls(forward: "FlatForward", rows: list[TokenRow], device: str) -> tuple[str, int]:
    """The attention that one pass runs, and how often, as torch's profiler counts operations."""
    from torch.profiler import ProfilerActivity, profile

    batch = flatten(rows, "full", device)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        forward.hidden_states(batch)
    counts = {event.key: event.count for event in seen.key_averages()}

    def count(*names: str) -> int:
        return sum(n for key, n in counts.items() if key in names)

    def count_of(library: str, what: str) -> int:
        found = [n for key, n in counts.items() if key.startswith(library) and what in key]
        return max(found, default=0)

    scaled = count("aten::scaled_dot_product_attention")
    inside = count("aten::_scaled_dot_product_flash_attention")
    found = {
        "flash_attn": count_of("flash_attn", "forward"),
        "xformers": count_of("xformers", "fw"),
        "varlen_flash": count("aten::_flash_attention_forward") - inside,
        "sdpa": scaled,
    }
    path = next((name for name, n in found.items() if n > 0), "")
    return path, found.get(path, 0) + (scaled if path not in {"sdpa", ""} else 0)
