"""Old adapter versions, removed where the config asks for it; the champion and the one before never."""

from pathlib import Path

from qwenft_assets.config import Config, RecipeName
from qwenft_assets.records import Latest, TrainingRecord
from qwenft_assets.release.history import champions_in_turn, read_history
from qwenft_assets.release.registry import read_champion
from qwenft_assets.storage.files import read_record
from qwenft_assets.storage.root import Storage

KEPT_CHAMPIONS = 2
"""The champion, and what a rollback would bring back."""


def prune_versions(config: Config, recipe: RecipeName, storage: Storage) -> list[str]:
    """Remove adapters, with their evaluations, beyond the newest `keep_versions`.

    Kept beside these: the champion, the one before it, and the version trained last. What was decided
    about the removed ones stays in history.jsonl.

    Returns:
        The versions removed, oldest first.
    """
    if config.keep_versions is None:
        return []
    with storage.lock(f"release-{recipe}"):
        kept = _in_use(storage, recipe)
        folders = [
            path.parent for path in storage.adapters(recipe).glob(f"*/{TrainingRecord.FILE}")
        ]
        folders = [folder for folder in folders if not folder.name.startswith(".")]
        folders.sort(key=_trained_at)
        removed = [
            folder.name for folder in folders[: -config.keep_versions] if folder.name not in kept
        ]
        for version in removed:
            storage.remove(storage.evaluation(recipe, version))
            storage.remove(storage.adapter(recipe, version))
    return removed


def _in_use(storage: Storage, recipe: RecipeName) -> set[str]:
    used: set[str] = set()
    champion = read_champion(storage, recipe)
    if champion is not None:
        turn = champions_in_turn(read_history(storage, recipe), champion.version)
        used |= {champion.version, *turn[-KEPT_CHAMPIONS:]}
    latest = read_record(storage.adapters(recipe), Latest)
    return used | ({latest.version} if latest else set())


def _trained_at(folder: Path) -> float:
    return (folder / TrainingRecord.FILE).stat().st_mtime
