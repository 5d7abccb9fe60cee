"""How sources become one shuffled, split dataset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qwenft_assets.config.section import RecipeName, Section
from qwenft_assets.config.sources import SOURCE_NAMES, SourceName


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

    recipes: dict[RecipeName, Recipe] = Field(
        default_factory=_default_recipes,
        description="How many rows each recipe has, and which share each source or group.",
    )
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
    seed: int = Field(default=42, description="Seed of the sample, the split and the shuffle.")

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
