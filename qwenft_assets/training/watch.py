"""What happens between the steps: log lines, progress, checkpoints, and an early stop on request."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qwenft_assets.processes.child import stop_requested
from qwenft_assets.training.checkpoints import (
    best_checkpoint,
    forget_old,
    require_room,
    seal,
    send_checkpoints,
)
from qwenft_assets.training.run import TrainingRun

if TYPE_CHECKING:
    from transformers import TrainerCallback


def watch(run: TrainingRun) -> "TrainerCallback":
    """A callback that logs losses, reports progress, and evaluates and saves the last step.

    A checkpoint is sealed with the run's history, and sent to the object store where there is one.
    """
    from transformers import TrainerCallback

    history, ranks, log = run.history, run.ranks, run.log
    seconds_at_most = 60 * run.settings.checkpoint_minutes

    class Watch(TrainerCallback):
        """Called after each step; has no state of its own that a checkpoint would need."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self.saved = time.monotonic()
            self.started = self.saved - history.seconds
            if state.global_step:
                history.resumed_at.append(state.global_step)
                _name_the_best_here(run.checkpoints, state)
            if ranks.is_main_process:
                require_room(run.checkpoints)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
            step, logs = state.global_step, logs or {}
            if "loss" in logs:
                loss = float(logs["loss"])
                history.train.append((step, loss))
                history.learning_rate.append((step, float(logs["learning_rate"])))
                seconds = max(time.monotonic() - self.started - history.eval_seconds, 1e-3)
                speed = f"{history.train_tokens / seconds:,.0f} tokens/s"
                left = f"{seconds / step * (state.max_steps - step):,.0f} s left"
                run.report_progress(step, state.max_steps, f"loss {loss:.3f}, {speed}")
                log(f"step {step}/{state.max_steps} loss {loss:.4f}, {speed}, {left}")
            if "eval_loss" in logs:
                history.eval.append((step, float(logs["eval_loss"])))
                log(f"step {step}/{state.max_steps} eval_loss {logs['eval_loss']:.4f}")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            late = ranks.is_main_process and time.monotonic() - self.saved > seconds_at_most
            stop, overdue = ranks.any(stop_requested(), late)
            last = state.global_step >= state.max_steps
            _decide(control, last=last, stop=stop, overdue=overdue)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            history.require_finite()
            self.saved = time.monotonic()
            history.seconds = self.saved - self.started
            _bring_random_states(run, state)
            _seal_and_tidy(run, state)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            history.seconds = time.monotonic() - self.started

    return Watch()


def _name_the_best_here(checkpoints: Path, state: Any) -> None:
    """Correct the path in the state that was read, which is the path where it was saved."""
    best = best_checkpoint(checkpoints, state.best_global_step)
    state.best_model_checkpoint = str(best) if best else None


def _bring_random_states(run: TrainingRun, state: Any) -> None:
    """Bring the random state of every process to the first one, which may have another disk."""
    if run.ranks.size == 1:
        return
    checkpoint = run.checkpoints / f"checkpoint-{state.global_step}"
    own = checkpoint / f"rng_state_{run.ranks.rank}.pth"
    for name, content in run.ranks.gather([(own.name, own.read_bytes())]):
        if run.ranks.is_main_process and not (checkpoint / name).exists():
            (checkpoint / name).write_bytes(content)


def _seal_and_tidy(run: TrainingRun, state: Any) -> None:
    if not run.ranks.is_main_process:
        return
    seal(run, run.checkpoints / f"checkpoint-{state.global_step}")
    # The trainer itself would go by the files' times, and the clock may have been set back.
    forget_old(run.checkpoints, state.global_step, state.best_global_step)
    send_checkpoints(run)
    if state.global_step < state.max_steps:
        require_room(run.checkpoints)


def _decide(control: Any, *, last: bool, stop: bool, overdue: bool) -> None:
    """Ask for what this step needs beyond what is due by its number."""
    if last:
        control.should_evaluate = control.should_save = True
    elif stop:
        control.should_save = control.should_training_stop = True
    elif overdue:
        control.should_save = True
    # A checkpoint between two points of the loss curve would cut their mean in two.
    control.should_log = control.should_log or control.should_save
