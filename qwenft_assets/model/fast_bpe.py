"""The same token ids several times faster: a byte-level BPE tokenizer as a tiktoken encoding.

`tokenizers` keeps for each token where in the text it came from, which nothing here asks for. Its
file says all that tiktoken needs, where the tokenizer is of the usual kind (GPT-2's, Qwen's,
SmolLM2's); for any other kind there is no fast way, and `tokenizers` does it.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tiktoken

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
GPT2_PATTERN_SINGLE_DIGITS = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}|\s+(?=\p{N})| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
"""As GPT2_PATTERN on text that was first cut around every digit: white space ends there."""
NFC = {"type": "NFC"}
NO_NORMALIZERS = {"type": "Sequence", "normalizers": []}
PLAIN_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
GPT2_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}


class FastBpe:
    """Encodes text as one tokenizer does, without saying where each token came from."""

    def __init__(self, encoding: tiktoken.Encoding, known_tokens: int, *, compose: bool) -> None:
        self._encoding = encoding
        self._known_tokens = known_tokens
        self._compose = compose

    def encode(self, text: str) -> Any:
        """Ids as an int32 array; None where the vocabulary lacks one of the text's bytes."""
        if self._compose and not text.isascii():
            text = unicodedata.normalize("NFC", text)
        ids = self._encoding.encode_to_numpy(text, allowed_special="all", disallowed_special=())
        return None if len(ids) and ids.max() >= self._known_tokens else ids.astype(np.int32)

    def byte_lengths(self, ids: Any) -> list[int]:
        """Bytes of text that each token stands for."""
        return [len(self._encoding.decode_single_token_bytes(int(token))) for token in ids]


def fast_bpe(tokenizer: Any) -> FastBpe | None:
    """The fast twin of a `tokenizers.Tokenizer`; None where it is not of the usual kind."""
    import tiktoken

    parts = json.loads(tokenizer.to_str())
    pattern = _pattern(parts["pre_tokenizer"])
    ranks = _ranks(parts["model"])
    usual = parts["normalizer"] in (None, NFC, NO_NORMALIZERS) and not any(
        token["normalized"] or token["lstrip"] or token["rstrip"] or token["single_word"]
        for token in parts["added_tokens"]
    )
    if pattern is None or ranks is None or not usual:
        return None
    special = {token["content"]: token["id"] for token in parts["added_tokens"]}
    known = 1 + max(*ranks.values(), *special.values(), 0)
    # Bytes that the vocabulary lacks; `encode` notices their ids.
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    ranks |= {bytes([byte]): known + n for n, byte in enumerate(missing)}
    encoding = tiktoken.Encoding(
        "from tokenizer.json", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special
    )
    return FastBpe(encoding, known, compose=parts["normalizer"] == NFC)


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The regular expression whose matches are the words that BPE stays within."""
    if pre_tokenizer is None:
        return None
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    # Offsets do not matter here.
    steps = [{k: v for k, v in step.items() if k != "trim_offsets"} for step in steps]
    if steps == [GPT2_BYTES]:
        return GPT2_PATTERN
    if steps == [DIGITS, GPT2_BYTES]:
        return GPT2_PATTERN_SINGLE_DIGITS
    if steps[1:] == [PLAIN_BYTES] and steps[0]["type"] == "Split":
        split = steps[0]
        if split["behavior"] == "Isolated" and not split["invert"]:
            return split["pattern"].get("Regex")
    return None


def _ranks(model: dict[str, Any]) -> dict[bytes, int] | None:
    """Bytes of each mergeable token with its id, where lower ids are merged first."""
    if model["type"] != "BPE" or model.get("dropout"):
        return None
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return None
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    products = [model["vocab"].get(first + second, -1) for first, second in merges]
    if any(later <= earlier for earlier, later in pairwise(products)):
        return None
    byte_of = _byte_of_character()
    mergeable = {token for token, n in model["vocab"].items() if len(token) == 1}
    mergeable |= {first + second for first, second in merges}
    if any(character not in byte_of for token in mergeable for character in token):
        return None
    return {bytes(byte_of[c] for c in token): model["vocab"][token] for token in mergeable}


def _byte_of_character() -> dict[str, int]:
    """GPT-2's printable character for each byte (Radford et al., 2019), turned around."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + n): byte for n, byte in enumerate(others)
    }
