"""The language head and its loss, a block of tokens at a time: never the logits of a whole batch.

The logits of 16,384 tokens of Qwen2.5 would take 4.6 GiB in bf16, their gradient as much again. The
head is frozen, so that the gradient of the hidden states can be made in the same pass as the loss.
"""

from functools import cache
from typing import TYPE_CHECKING, Any

from qwenft_assets.model.linear import fused

if TYPE_CHECKING:
    import torch

BLOCK_TOKENS = 2_048


def sum_of_losses(
    hidden: "torch.Tensor", head: "torch.Tensor", targets: "torch.Tensor"
) -> "torch.Tensor":
    """Sum of the negative log-likelihood of all targets, in nats; differentiable in `hidden`.

    Args:
        hidden: (tokens, hidden size), after the last norm.
        head: (vocabulary, hidden size), without a gradient.
        targets: int64, (tokens,), all of them to be counted.

    Returns:
        float32 scalar.
    """
    return _function().apply(hidden, head, targets)


def losses(hidden: "torch.Tensor", head: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Negative log-likelihood of each target in nats, float32 of shape (tokens,); no gradient."""
    import torch

    blocks = zip(hidden.split(BLOCK_TOKENS), targets.split(BLOCK_TOKENS), strict=True)
    loss_of_block = fused(_loss_of_block, hidden.device.type)
    return torch.cat([loss_of_block(block @ head.t(), of_block) for block, of_block in blocks])


def _loss_of_block(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    values = logits.float()
    return values.logsumexp(dim=1) - values.gather(1, targets[:, None])[:, 0]


def _loss_and_gradient_of_block(
    logits: "torch.Tensor", targets: "torch.Tensor"
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Losses, and their gradient with respect to the logits: softmax minus one at the target."""
    import torch

    values = logits.float()
    log_sum = values.logsumexp(dim=1, keepdim=True)
    loss = log_sum[:, 0] - values.gather(1, targets[:, None])[:, 0]
    if values.is_cuda:  # fused: one pass that compares costs less than a second that scatters
        at_target = torch.arange(values.shape[1], device=values.device) == targets[:, None]
        gradient = (values - log_sum).exp() - at_target.float()
    else:
        gradient = (values - log_sum).exp_()
        gradient.scatter_add_(1, targets[:, None], -torch.ones_like(log_sum))
    return loss, gradient.to(logits.dtype)


@cache
def _function() -> Any:
    """The autograd function; made at first use, because its base class is torch's."""
    import torch

    class HeadLoss(torch.autograd.Function):
        """Keeps the gradient of the hidden states, which is as large as these."""

        @staticmethod
        def forward(
            ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            block = fused(_loss_and_gradient_of_block, hidden.device.type)
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            gradient = torch.empty_like(hidden)
            for start in range(0, len(targets), BLOCK_TOKENS):
                stop = start + BLOCK_TOKENS
                loss, of_logits = block(hidden[start:stop] @ head.t(), targets[start:stop])
                total += loss.sum()
                torch.mm(of_logits, head, out=gradient[start:stop])
            ctx.save_for_backward(gradient)
            return total

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
            (gradient,) = ctx.saved_tensors
            return gradient * gradients[0].to(gradient.dtype), None, None

    return HeadLoss
