"""The state of a deployment's artifacts as plain values: what `qwenft status` shows of the storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qwenft_assets.config import SOURCE_NAMES, Config, RecipeName
from qwenft_assets.evaluation.job import read_evaluation
from qwenft_assets.rebuilds.outcome import mixture_changes, what_changed, what_it_bought
from qwenft_assets.rebuilds.standing import standing
from qwenft_assets.rebuilds.upstream import SourceState, survey
from qwenft_assets.records import MixtureManifest, SampleManifest
from qwenft_assets.release.history import last_decision
from qwenft_assets.release.registry import read_champion
from qwenft_assets.storage.files import read_json
from qwenft_assets.storage.root import Storage


def sources_report(config: Config, storage: Storage, *, ask_upstream: bool) -> list[dict[str, Any]]:
    """Each source: rows, version and revision of its sample, and what upstream holds if asked."""
    states: Sequence[SourceState] = survey(config, SOURCE_NAMES, storage) if ask_upstream else ()
    change_of = {state.source: state.change for state in states}
    found: list[dict[str, Any]] = []
    for source in SOURCE_NAMES:
        manifest = read_json(storage.source_sample(source) / SampleManifest.FILE) or {}
        entry = {name: manifest.get(name) for name in ("rows", "version", "revision")}
        found.append({"source": source, **entry})
        if ask_upstream:
            found[-1]["change"] = change_of[source]
    return found


def recipe_report(config: Config, storage: Storage, recipe: RecipeName) -> dict[str, Any]:
    """One recipe: mixture, last decision, champion, and what a rebuild would do next."""
    mixture = read_json(storage.mixed_dataset(recipe) / MixtureManifest.FILE) or {}
    decision, champion = last_decision(storage, recipe), read_champion(storage, recipe)
    evaluation = read_evaluation(storage, recipe, decision.version) if decision else None
    return {
        "recipe": recipe,
        "mixture_version": mixture.get("version"),
        "rows": mixture.get("rows"),
        "what_changed": what_changed(mixture_changes(storage, recipe)) if mixture else None,
        "adapter_version": decision.version if decision else None,
        "decision": decision.action if decision else None,
        "reasons": list(decision.reasons) if decision else [],
        "what_it_bought": what_it_bought(evaluation) if evaluation else None,
        "champion": champion.as_json() if champion else None,
        "due": standing(config, recipe, storage).due,
    }
