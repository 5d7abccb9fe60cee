"""Which processes of a deployment there are, as the system lists them."""

import time
from pathlib import Path

SECONDS_TO_BE_GONE = 30.0


def processes_of(folder: Path) -> dict[int, str]:
    """Processes, by id, whose environment names a folder; with their command lines."""
    found: dict[int, str] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            environment = (process / "environ").read_bytes()
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        if str(folder).encode() in environment and command:  # a zombie has none
            found[int(process.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def parent_of(pid: int) -> int:
    """The id of a process's parent."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return int(stat.rpartition(")")[2].split()[1])


def workers_of(folder: Path) -> list[int]:
    """Ids of the training and evaluation workers among them."""
    return [pid for pid, command in processes_of(folder).items() if ".worker" in command]


def wait_until_gone(folder: Path, seconds: float = SECONDS_TO_BE_GONE) -> dict[int, str]:
    """Wait; the processes that are left in spite of it."""
    deadline = time.monotonic() + seconds
    while (left := processes_of(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left
