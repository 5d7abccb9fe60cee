"""Locks between processes of one machine that say who holds them and since when.

The lock itself belongs to the kernel, which frees it when its holder dies in whatever way: there are no
stale locks. A file beside it names the holder, for those who wait.
"""

import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout

SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def hold(lock_file: Path, name: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock; while another process holds it, wait, and say who that is.

    Args:
        lock_file: On a local disk; its folder is there.
        name: What is locked, in words.
        say: Called when a wait begins, and then every minute; None: standard error.
    """
    say = say or _to_stderr
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        while True:
            say(f"waiting for {name}, held by {holder(lock_file)}")
            with suppress(Timeout):
                lock.acquire(timeout=SECONDS_BETWEEN_LINES)
                break
    try:
        _write_holder(lock_file)
        yield
    finally:
        _holder_file(lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def try_hold(lock_file: Path) -> Iterator[bool]:
    """Hold a lock if it is free; yields whether it is held now, without waiting.

    Args:
        lock_file: On a local disk; its folder is there.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def hold_gpu(say: Callable[[str], None]) -> Iterator[None]:
    """Hold this user's GPU, whatever the config, storage root or Dagster instance.

    Args:
        say: Called with who holds it while this process waits.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(os.sep, "-")
    name = f"qwenft-{os.getuid()}-gpu-{visible}.lock"
    with hold(Path(tempfile.gettempdir()) / name, "the GPU", say):
        yield


@contextmanager
def hold_device(device: str, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the GPU where `device` is `cuda`; a CPU is shared."""
    with hold_gpu(say) if device == "cuda" else nullcontext():
        yield


def holder(lock_file: Path) -> str:
    """Who holds a lock and for how long, in words."""
    try:
        found = json.loads(_holder_file(lock_file).read_text(encoding="utf-8"))
        pid, host, since, command = (found[key] for key in ("pid", "host", "since", "command"))
    except (OSError, ValueError, KeyError):
        return "another process"
    if host == socket.gethostname() and not is_alive(pid):
        return "another process"
    minutes = max(time.time() - since, 0) / 60  # the clock may have been set back
    return f"process {pid} on {host} for {minutes:.0f} min ({command})"


def is_alive(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_holder(lock_file: Path) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
    about = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": time.time(),
        "command": command,
    }
    with suppress(OSError):  # on a full disk the lock is held none the less
        _holder_file(lock_file).write_text(json.dumps(about), encoding="utf-8")


def _holder_file(lock_file: Path) -> Path:
    return lock_file.with_suffix(".holder")


def _to_stderr(line: str) -> None:
    print(f"· {line}", file=sys.stderr, flush=True)  # noqa: T201
