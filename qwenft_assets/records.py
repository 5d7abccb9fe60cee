"""Every JSON file that one stage writes and another one reads, as a type.

`storage/files.py` reads and writes them. A key that a record does not know is ignored, so that files of a
newer version stay readable; a missing or wrong one is an error that names file and field.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from qwenft_assets.config import TrainingConfig

MANIFEST_FILE = "manifest.json"
ROWS_FILE = "rows.parquet"
DROPPED = "dropped_"
Interval = tuple[float, float]
"""Lower and upper end of a 95 % interval."""
Points = tuple[tuple[int, float], ...]
"""(optimizer step, value)"""


def _is_none(value: object) -> bool:
    return value is None


def _optional() -> Any:
    """A key that is left out of the file while its value is None."""
    return Field(default=None, exclude_if=_is_none)


class Part(BaseModel):
    """A part of a record. Frozen."""

    model_config = ConfigDict(frozen=True)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, with the keys of the file in their order."""
        return self.model_dump(mode="json")


class Record(Part):
    """A whole file."""

    FILE: ClassVar[str]
    """Its name in the folder of its artifact."""
    REMEDY: ClassVar[str] = "Delete it, then run the same command again."
    """What to do about a file that cannot be read."""

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the files beside it, by name."""
        return {}


class Dropped(Part):
    """Rows left out, by reason; the file has a key `dropped_<reason>` for each."""

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "dropped" in values:
            return values
        dropped = {key: n for key, n in values.items() if key.startswith(DROPPED)}
        return {**values, "dropped": {key.removeprefix(DROPPED): n for key, n in dropped.items()}}

    @model_serializer(mode="wrap")
    def _spread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in handler(self).items():
            flat |= (
                {f"{DROPPED}{reason}": n for reason, n in value.items()}
                if key == "dropped"
                else {key: value}
            )
        return flat


class SampleManifest(Dropped, Record):
    """One source's sample."""

    FILE = MANIFEST_FILE

    source: str
    version: str
    """Content hash of the rows."""
    identity: str
    """Hash of upstream's revision, the rules and the settings but for the number of rows."""
    quota: int | None
    """Rows asked for; None: all."""
    exhausted: bool
    """Upstream has no more."""
    rows: int
    sha256: str
    """Hash of rows.parquet."""
    revision: str
    """Commit of the upstream repository, or sha256 of what was read."""
    settings: str
    """Hash of all that decides what a sample is but its size and what upstream holds."""
    origin: str
    scanned: int
    """Rows read."""
    read_mib: float
    dropped: dict[str, int]
    licenses: dict[str, int]
    """Number of rows with each licence. The fields below count rows in the same way."""
    admitted_by: dict[str, int]
    keyword_hits: dict[str, int]
    also_in: dict[str, int]
    """Rows that the keywords of another source would admit too."""
    findings: dict[str, int]
    """Rows with personal data, by its kind."""

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the rows."""
        return {ROWS_FILE: self.sha256}


class MixedSource(Dropped):
    """What one source gave to a mixture, and the sample that it came from."""

    asked: int
    available: int
    unique: int
    repeats: int
    rows: int
    train: int
    eval: int
    dropped: dict[str, int]
    version: str
    revision: str
    identity: str


class MixtureManifest(Dropped, Record):
    """The mixture of one recipe."""

    FILE = MANIFEST_FILE

    recipe: str
    version: str
    """Content hash of rows, order and split."""
    inputs: str
    """Hash of all that decides what the mixture is."""
    rows_asked: int
    rows: int
    train_rows: int
    eval_rows: int
    ratios_asked: dict[str, float]
    ratios_got: dict[str, float]
    ratios_kept: bool
    shortfall: dict[str, int]
    """Rows missing, by source or group that had too few."""
    shortfall_policy: str
    dropped: dict[str, int]
    sources: dict[str, MixedSource]
    licenses: dict[str, int]
    files: dict[str, str]
    """sha256 by name."""

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the files beside it, by name."""
        return self.files


class MixtureChange(Part):
    """Rows of one source that came, went or changed, for one cause."""

    source: str
    change: str
    cause: str
    rows: int
    first: tuple[str, ...]
    """Row ids, a few."""


class MixtureDiff(Record):
    """The rows by which a mixture differs from the build before."""

    FILE = "diff.json"

    previous_version: str | None
    """None: it is the first build."""
    version: str
    changes: tuple[MixtureChange, ...]


class LengthFigures(Part):
    """Lengths of rows in tokens of the base model; percentiles before anything is cut off."""

    rows: int
    tokens: int
    """After the cut."""
    share_of_tokens: float
    mean: float
    p5: int
    p25: int
    p50: int
    p75: int
    p95: int
    p99: int
    max: int
    truncated_rows: int
    truncated_share: float
    lost_tokens: int


class MixtureLengths(Record):
    """How long the rows of a mixture are."""

    FILE = "lengths.json"

    key: str
    """Hash of mixture, tokenizer and the length at which training cuts."""
    max_length_tokens: int
    by_source: dict[str, LengthFigures]
    """And those of `all`."""
    histogram: tuple[int, ...]
    """Rows by length, in equal bins up to the longest 1 %."""


class LossCurves(Part):
    """Losses in nats per token, and the learning rate, by optimizer step."""

    train: Points
    eval: Points
    learning_rate: Points


def _with_unknown_settings(values: Any) -> Any:
    """The settings of another version: what it has and we have not is left out."""
    if isinstance(values, dict):
        return TrainingConfig.model_validate(values, extra="ignore")
    return values


class TrainingRecord(Record):
    """A finished adapter: what it was made of and how training went. Losses are in nats per token."""

    FILE = "training.json"

    version: str
    recipe: str
    mixture_version: str
    base_model: str
    base_revision: str
    base_path: str
    engine: str
    batching: str
    settings: Annotated[TrainingConfig, BeforeValidator(_with_unknown_settings)]
    train_rows: int
    train_sequences: int
    eval_rows: int
    truncated_rows: int
    trainable_parameters: int
    attention: str
    steps: int
    tokens_per_step: float
    best_step: int
    best_eval_loss: float
    final_train_loss: float
    train_tokens: int
    padding_tokens: int
    tokens_per_second: float
    train_seconds: float
    eval_seconds: float
    resumed_at: tuple[int, ...]
    """Steps at which a run went on after one that was cut off."""
    halved_at: tuple[int, ...]
    """Steps at which memory ran out and the passes were halved."""
    loss_history: LossCurves
    device: str
    processes: int
    shards: int
    memory_plan: dict[str, JsonValue] | None
    """The fields of a `MemoryPlan`; None: on CPU."""
    seconds: float
    seconds_by_phase: dict[str, float]
    peak_vram_gib: float | None
    versions: dict[str, str]
    """Versions of the libraries that affect what is learnt."""
    files: dict[str, str] = {}
    """sha256 by name."""

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the files beside it, by name."""
        return self.files


class Latest(Record):
    """The adapter trained last."""

    FILE = "latest.json"

    version: str


class Headline(Part):
    """Base and adapter on the same held-out rows. Losses are in nats per token."""

    eval_loss: float
    perplexity: float
    base_eval_loss: float
    base_perplexity: float
    delta_loss: float
    """Adapter - base: below 0 is better."""
    delta_loss_ci95: Interval
    eval_tokens: int
    eval_rows: int


class Figures(Headline):
    """All figures of some held-out rows; a metric without a field here is kept as it is."""

    model_config = ConfigDict(extra="allow")

    eval_questions: int
    truncated_rows: int
    champion_eval_loss: float | None = _optional()
    """This and the next: on the rows that the champion was not trained on."""
    champion_perplexity: float | None = _optional()
    champion_delta_loss: float | None = _optional()
    """Adapter - champion."""
    champion_delta_loss_ci95: Interval | None = _optional()
    champion_rows: int | None = _optional()


class EvaluationResult(Figures, Record):
    """What training bought, on all held-out rows and by parts of them."""

    FILE = "evaluation.json"

    per_source: dict[str, Figures]
    per_length: dict[str, Figures]
    per_span: dict[str, Figures]
    canaries: dict[str, dict[str, float]]
    """By model: the share of answers that pass each canary."""
    benchmarks: dict[str, dict[str, dict[str, float]]]
    """Scores by task, metric and model."""
    leaked_rows: int
    """Held-out rows that ask what the adapter was trained on."""
    adapter_version: str
    champion_version: str | None
    mixture_version: str
    eval_set: str
    eval_set_version: str
    base_model: str
    base_revision: str
    base_path: str
    engine: str
    attention: str
    max_length_tokens: int
    supervise: str
    recipe: str
    processes: int
    inputs: str
    """Hash of all that decides the figures, but for the champion."""
    seconds: float
    files: dict[str, str] = {}
    """sha256 by name."""

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the files beside it, by name."""
        return self.files


@dataclass(frozen=True)
class RuleResult:
    """One rule of the release gate, whether it holds, and the figures that say so."""

    name: str
    passed: bool
    detail: str


class HistoryLine(Record):
    """One decision of the gate, or one move of the champion pointer by hand."""

    FILE = "history.jsonl"
    REMEDY = "Remove that line."

    action: Literal["release", "refuse", "promote", "rollback"]
    """The gate passed, the gate said no, moved by hand, taken back."""
    version: str
    released: bool
    """It is the champion from then on."""
    previous: str | None
    """The champion before."""
    at: str
    """UTC, ISO 8601."""
    who: str
    inputs: str
    """Those of the evaluation."""
    champion_version: str | None
    """The champion that it was compared with."""
    eval_loss: float
    perplexity: float
    base_eval_loss: float
    base_perplexity: float
    delta_loss: float
    delta_loss_ci95: Interval
    mixture_version: str
    base_model: str
    base_revision: str
    why: str | None = _optional()
    """The reason given for a move by hand."""
    forced: bool | None = _optional()
    """The gate said no to a promotion."""
    reasons: tuple[str, ...]
    rules: tuple[RuleResult, ...] | None = _optional()
    settings: dict[str, JsonValue] | None = _optional()
    """The gate's settings; the gate does not decide again on the same figures and settings."""


class Champion(Record):
    """The released adapter, with the figures of the decision that released it."""

    FILE = "champion.json"
    REMEDY = "Delete it; `qwenft releases promote VERSION` makes it again."

    version: str
    at: str
    who: str
    reasons: tuple[str, ...]
    eval_loss: float
    perplexity: float
    base_eval_loss: float
    base_perplexity: float
    delta_loss: float
    delta_loss_ci95: Interval
    mixture_version: str
    base_model: str
    base_revision: str


class PublishedFile(Part):
    """One file of a published copy."""

    path: str
    bytes: int
    sha256: str


class PublishedManifest(Record):
    """What a published copy holds, and where it came from: the same for every target."""

    FILE = MANIFEST_FILE
    REMEDY = "Fetch the copy again."

    format: Literal[1] = 1
    content: str
    version: str
    """The adapter's version."""
    recipe: str
    released: bool
    base_model: str
    base_revision: str
    mixture_version: str
    licenses: dict[str, str | dict[str, int]]
    """Licence of each thing in the copy; under `rows`, the number of rows with each licence."""
    metrics: Headline
    versions: dict[str, str]
    command: str
    verification: dict[str, Any] | None = _optional()
    """How the merged or converted model answers beside base and adapter."""
    rows: dict[str, int] | None = _optional()
    """Only for a dataset: rows by split, and omitted rows by reason."""
    code_commit: str | None = _optional()
    """Only for code: the project's last commit."""
    files: Annotated[tuple[PublishedFile, ...], Field(min_length=1)]

    @property
    def hashes(self) -> dict[str, str]:
        """sha256 of the files beside it, by path."""
        return {file.path: file.sha256 for file in self.files}


RECORD_FILES = frozenset(
    kind.FILE
    for kind in (
        *(SampleManifest, MixtureManifest, MixtureDiff, MixtureLengths, TrainingRecord, Latest),
        *(EvaluationResult, Champion, HistoryLine, PublishedManifest),
    )
)
"""The small files that say what an artifact is."""
