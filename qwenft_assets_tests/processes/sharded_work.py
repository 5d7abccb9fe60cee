"""What test_sharding.py has two processes do; importable by them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qwenft_assets.config import LoraConfig
from qwenft_assets.evaluation.evaluate import evaluate
from qwenft_assets.evaluation.job import EvaluationJob
from qwenft_assets.processes.ranks import Ranks
from qwenft_assets.progress import no_progress
from qwenft_assets.training.job import TrainingJob
from qwenft_assets.training.run import TrainingRun
from qwenft_assets.training.train import train
from qwenft_assets_tests.training.tiny_rows import token_rows

ROWS = token_rows(30, 12, 47, 7, 21)


def held(ranks: Ranks, folder: Path, weights: str) -> dict[str, Any]:
    """Bytes of the decoder's frozen weights in this process, before a pass and after one."""
    from qwenft_assets.model.decoder import FlatDecoder
    from qwenft_assets.model.engines.peft import add_lora, load_base

    model = add_lora(load_base(folder, weights, "cpu"), LoraConfig(rank=4))
    layers = model.get_base_model().model.layers
    frozen = [p for name, p in layers.named_parameters() if "lora_" not in name and p.dim() > 1]
    whole = sum(p.nbytes for p in frozen)
    decoder = FlatDecoder(model, weights=weights, shards=ranks.size)
    before = bytes_of_parts(decoder)
    losses_and_gradients(decoder, model, checkpointing=False)
    left = sum(p.untyped_storage().nbytes() for p in frozen)
    return {"whole": whole, "left": left, "before": before, "after": bytes_of_parts(decoder)}


def bytes_of_parts(decoder: Any) -> int:
    """Memory behind what this process holds of the layers."""
    parts = [p.to_local() for layer in decoder.layers for p in layer.parameters()]
    return sum(part.untyped_storage().nbytes() for part in parts)


def passed(ranks: Ranks, folder: Path, weights: str) -> list[tuple[float, dict[str, Any]]]:
    """Losses and gradients: layers kept, computed again, kept, each after a pass without gradient."""
    import torch

    from qwenft_assets.model.decoder import FlatDecoder
    from qwenft_assets.model.engines.peft import add_lora, load_base

    torch.manual_seed(1)
    model = add_lora(load_base(folder, weights, "cpu"), LoraConfig(rank=4))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter) * 0.1
    decoder = FlatDecoder(model, weights=weights, shards=ranks.size)
    return [
        losses_and_gradients(decoder, model, checkpointing=again) for again in (False, True, False)
    ]


def losses_and_gradients(
    decoder: Any, model: Any, *, checkpointing: bool
) -> tuple[float, dict[str, Any]]:
    import torch

    from qwenft_assets.model.batches import flatten
    from qwenft_assets.model.head import sum_of_losses

    batch = flatten(ROWS, "full")
    with torch.no_grad():
        decoder.hidden_states(batch)
    hidden = decoder.hidden_states(batch, training=True, checkpointing=checkpointing)
    loss = sum_of_losses(hidden[batch.counted], decoder.head, batch.targets)
    loss.backward()
    found = {n: p.grad.numpy().copy() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return float(loss.detach()), found


def say_nothing(line: str) -> None:
    """A log that keeps nothing."""


def trained(
    ranks: Ranks, job: TrainingJob, log: Callable[[str], None] = say_nothing
) -> dict[str, Any]:
    """The training record, of the second process nothing; and `idle_passes` of this one."""
    from qwenft_assets.training.forward_passes import Passes

    counts, idle = list[int](), Passes.idle_passes

    def counted(self: Passes, count: int, device: str) -> Any:
        counts.append(count)
        return idle(self, count, device)

    Passes.idle_passes = counted  # of a process that ends after this
    return {**train(TrainingRun(job, ranks, log)), "idle_passes": sum(counts)}


def evaluated(ranks: Ranks, job: EvaluationJob) -> dict[str, Any]:
    """The figures, of the second process nothing; and the log, and how many rows each pass had."""
    from qwenft_assets.evaluation import losses

    lines, rows_a_pass, read = list[str](), list[int](), losses.span_losses

    def counted(model: Any, rows: Any, *arguments: Any) -> Any:
        rows_a_pass.append(len(rows))
        return read(model, rows, *arguments)

    losses.span_losses = counted
    result = evaluate(job, no_progress, lines.append, ranks)
    return {**result, "log": lines, "rows_a_pass": rows_a_pass}
