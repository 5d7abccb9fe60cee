"""Keywords of every kind, and the mask over texts that they give."""

import pyarrow as pa

from qwenft_assets.config import KeywordRules
from qwenft_assets.text.keywords import KeywordMatcher

RULES = KeywordRules(
    words=("language", "language model", "loss function", "k-means", "q-learning", "lora"),
    acronyms=("IC", "GAN", "ReLU", "mRNA"),
    patterns={
        "C++": r"(?i)c\+\+",
        "op-amp": r"(?i)\bop[\s-]?amps?\b",
        "74xx": r"\b74(?:LS|HC)?[0-9]{2}\b",
        "not a letter": r"#[^\sa-z]#",
    },
    with_context={
        "gate": ("logic", "gate oxide", "Logic level"),
        "drain": ("logic", "gate oxide", "Logic level"),
        "Power Transformer": ("k", "gate"),
    },
)


def mask_of(matcher: KeywordMatcher, *texts: str | None) -> list[bool | None]:
    return matcher.mask(pa.chunked_array([pa.array(texts, pa.string())])).to_pylist()
