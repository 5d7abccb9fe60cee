"""What happens beside the steps: the live log, progress, checkpoints, and the end when asked to."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.processes.child import Log, stop_requested
from qwenft_assets.processes.ranks import Ranks
from qwenft_assets.progress import ReportProgress
from qwenft_assets.training.checkpoints import (
    Identity,
    best_checkpoint,
    forget_old,
    require_room,
    seal,
)
from qwenft_assets.training.history import LossHistory

if TYPE_CHECKING:
    from transformers import TrainerCallback


def watch(
    history: LossHistory,
    report_progress: ReportProgress,
    log: Log,
    checkpoint_minutes: float,
    identity: Identity | None,
    ranks: Ranks,
    after_checkpoint: Callable[[], None],
) -> "TrainerCallback":
    """Live loss into the run log, progress to the terminal, the last step always evaluated.

    Args:
        history: Filled while training.
        report_progress: Called with each logged step.
        log: Writes to the run log.
        checkpoint_minutes: A checkpoint at least so often, beside those of evaluations.
        identity: Goes into each checkpoint; None: checkpoints are not gone on from.
        ranks: All decide alike; the first one writes.
        after_checkpoint: Called by the first one when a checkpoint is whole.
    """
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        """Sees each step; keeps no state of its own that a checkpoint would need."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.saved = time.monotonic()
            self.started = self.saved - history.seconds
            if state.global_step:
                history.resumed_at.append(state.global_step)
                _name_the_best_here(Path(args.output_dir), state)
            if ranks.is_main_process:
                require_room(Path(args.output_dir))

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            step, logs = state.global_step, logs or {}
            if "loss" in logs:
                loss = float(logs["loss"])
                history.train.append((step, loss))
                history.learning_rate.append((step, float(logs["learning_rate"])))
                seconds = max(time.monotonic() - self.started - history.eval_seconds, 1e-3)
                speed = f"{history.train_tokens / seconds:,.0f} tokens/s"
                left = f"{seconds / step * (state.max_steps - step):,.0f} s left"
                report_progress(step, state.max_steps, f"loss {loss:.3f}, {speed}")
                log(f"step {step}/{state.max_steps} loss {loss:.4f}, {speed}, {left}")
            if "eval_loss" in logs:
                history.eval.append((step, float(logs["eval_loss"])))
                log(f"step {step}/{state.max_steps} eval_loss {logs['eval_loss']:.4f}")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            late = ranks.is_main_process and time.monotonic() - self.saved > 60 * checkpoint_minutes
            stop, overdue = ranks.any(stop_requested(), late)
            last = state.global_step >= state.max_steps
            _decide(control, last=last, stop=stop, overdue=overdue)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            history.require_finite()
            self.saved = time.monotonic()
            history.seconds = self.saved - self.started
            checkpoints = Path(args.output_dir)
            _bring_random_states(checkpoints, state, ranks)
            _seal_and_tidy(checkpoints, state, identity, history, ranks, after_checkpoint)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            history.seconds = time.monotonic() - self.started

    return Watch()


def _name_the_best_here(checkpoints: Path, state: Any) -> None:
    """The state that was read names it by its path where it was saved."""
    best = best_checkpoint(checkpoints, state.best_global_step)
    state.best_model_checkpoint = str(best) if best else None


def _bring_random_states(checkpoints: Path, state: Any, ranks: Ranks) -> None:
    """Each process has left that of its random numbers in the folder, which may be on its own disk."""
    if ranks.size == 1:
        return
    checkpoint = checkpoints / f"checkpoint-{state.global_step}"
    own = checkpoint / f"rng_state_{ranks.rank}.pth"
    for name, content in ranks.gather([(own.name, own.read_bytes())]):
        if ranks.is_main_process and not (checkpoint / name).exists():
            (checkpoint / name).write_bytes(content)


def _seal_and_tidy(
    checkpoints: Path,
    state: Any,
    identity: Identity | None,
    history: LossHistory,
    ranks: Ranks,
    after_checkpoint: Callable[[], None],
) -> None:
    if not ranks.is_main_process:
        return
    if identity is not None:
        seal(checkpoints / f"checkpoint-{state.global_step}", identity, history)
    # The trainer itself would go by the files' times, and the clock may have been set back.
    forget_old(checkpoints, state.global_step, state.best_global_step)
    after_checkpoint()
    if state.global_step < state.max_steps:
        require_room(checkpoints)


def _decide(control: Any, *, last: bool, stop: bool, overdue: bool) -> None:
    """What follows this step, beside what is due by the number of steps."""
    if last:
        control.should_evaluate = control.should_save = True
    elif stop:
        control.should_save = control.should_training_stop = True
    elif overdue:
        control.should_save = True
    # A checkpoint between two points of the loss curve would cut their mean in two.
    control.should_log = control.should_log or control.should_save
