"""Texts that are nearly the same: word shingles, MinHash signatures, LSH, then exact similarity.

Similarity is the Jaccard index of two texts' sets of shingles (Broder, 1997). MinHash LSH (Leskovec
et al., Mining of Massive Datasets, chapter 3) proposes pairs, and the exact index decides, so that a
collision of hashes never makes two texts alike. Words are runs of letters and digits whatever their
case; a Chinese, Japanese or Korean character is a word of its own.

Everything is computed over arrays: a loop over words in Python takes ten times as long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qwenft_assets.config import MinHashConfig
from qwenft_assets.progress import ReportProgress, no_progress

BLOCK_CHARACTERS = 2_000_000
"""Texts go through in blocks of about so many characters, which bounds the memory."""
BAND_NEIGHBOURS = 16
"""Each text of an LSH bucket is compared with so many that follow it: buckets stay linear."""
ESTIMATE_SLACK = 0.2
"""Pairs whose signatures agree in less than threshold - slack of the places are not looked at: with
128 places the estimate is off by more in about one pair of a million."""
PAIRS_AT_ONCE, COMPARED_AT_ONCE = 8_000_000, 100_000
SEED = 42
_BASE, _WINDOW_BASE = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_LETTER, _SINGLE = 1, 2

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]


class Shingles(NamedTuple):
    """Hashes of the shingles of several texts, one after the other."""

    hashes: U64
    offsets: I64
    """Text n has hashes[offsets[n] : offsets[n + 1]]."""
    words: I64
    """How many words each text has."""


class SimilarPair(NamedTuple):
    """Two texts by their place, the earlier first."""

    first: int
    second: int
    similarity: float


def word_shingles(texts: Sequence[str], shingle_words: int) -> Shingles:
    """Hashes of all runs of `shingle_words` words, in order; a shorter text is one shingle."""
    words, word_offsets = _word_hashes(texts)
    counts = np.diff(word_offsets)
    row = np.repeat(np.arange(len(texts)), counts)
    begins, ends = word_offsets[:-1][row], word_offsets[1:][row]
    place = np.arange(len(words))
    starts = place[(place + shingle_words <= ends) | (place == begins)]
    hashes = np.zeros(len(starts), np.uint64)
    power = np.uint64(1)
    for n in range(shingle_words):
        inside = starts + n < ends[starts]
        hashes[inside] += words[starts[inside] + n] * power
        power = _times(power, _WINDOW_BASE)
    per_text = np.where(counts > 0, np.maximum(counts - shingle_words + 1, 1), 0)
    return Shingles(_mixed(hashes), _offsets(per_text), counts)


def blocks(texts: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Stretches of about BLOCK_CHARACTERS, each with the place of its first text."""
    start, block, size = 0, list[str](), 0
    for n in range(len(texts)):
        text = texts[n]
        block.append(text)
        size += len(text)
        if size >= BLOCK_CHARACTERS:
            yield start, block
            start, block, size = n + 1, [], 0
    if block:
        yield start, block


def similar_pairs(
    texts: Sequence[str],
    settings: MinHashConfig,
    report_progress: ReportProgress = no_progress,
) -> list[SimilarPair]:
    """Pairs of texts at least `settings.threshold` alike, sorted; deterministic.

    A text without a word is like no other. LSH may miss a pair near the threshold: the chance to
    find one of similarity s is 1 - (1 - s^r)^b with b bands of r = hashes / b rows.
    """
    signatures, has_words = _signatures(texts, settings, report_progress)
    pairs = _candidates(signatures, has_words, settings)
    del signatures
    found = exact_similarities(texts, pairs, settings.shingle_words)
    return [
        SimilarPair(int(first), int(second), float(similarity))
        for (first, second), similarity in zip(pairs, found, strict=True)
        if similarity >= settings.threshold
    ]


def exact_similarities(
    texts: Sequence[str], pairs: Sequence[tuple[int, int]] | I64, shingle_words: int
) -> NDArray[np.float64]:
    """The Jaccard index of each pair; two texts without a word are alike, one without is not."""
    wanted: list[int] = sorted({int(n) for pair in pairs for n in pair})
    sets: dict[int, U64] = {}
    for start, block in blocks([texts[n] for n in wanted]):
        shingles = word_shingles(block, shingle_words)
        for n, (begin, end) in enumerate(pairwise(shingles.offsets.tolist())):
            sets[wanted[start + n]] = np.unique(shingles.hashes[begin:end])
    return np.array([_jaccard(sets[int(a)], sets[int(b)]) for a, b in pairs], np.float64)


def clusters(count: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Union-find: for each of `count` items the smallest item that pairs connect it with."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(item) for item in range(count)]


def _jaccard(first: U64, second: U64) -> float:
    if not len(first) or not len(second):
        return float(len(first) == len(second))
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both / (len(first) + len(second) - both)


def _signatures(
    texts: Sequence[str], settings: MinHashConfig, report_progress: ReportProgress
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """MinHash signatures, shape (texts, hashes), and which texts have a word at all."""
    import rensa  # pyright: ignore[reportMissingTypeStubs]

    min_hash: Any = vars(rensa)["RMinHash"]  # compiled, without types

    signatures = np.zeros((len(texts), settings.hashes), np.uint32)
    has_words = np.zeros(len(texts), np.bool_)

    def sign(numbered: tuple[int, list[str]]) -> int:
        start, block = numbered
        shingles = word_shingles(block, settings.shingle_words)
        matrix: Any = min_hash.digest_matrix_from_flat_token_hashes(
            shingles.hashes, shingles.offsets.astype(np.uint64), settings.hashes, SEED
        )
        end = start + len(block)
        signatures[start:end] = matrix.to_rows()
        has_words[start:end] = shingles.words > 0
        return end

    workers = os.cpu_count() or 1
    waiting = blocks(texts)
    with ThreadPoolExecutor(workers) as threads:
        # As many blocks as threads at a time: `map` would make all of them at once.
        while some := list(islice(waiting, workers)):
            for end in threads.map(sign, some):
                report_progress(end, len(texts), "compared")
    return signatures, has_words


def _candidates(
    signatures: NDArray[np.uint32], has_words: NDArray[np.bool_], settings: MinHashConfig
) -> I64:
    """Pairs that share a band and whose signatures agree in enough places, shape (pairs, 2)."""
    rows = np.flatnonzero(has_words)
    places = settings.hashes // settings.bands
    least = settings.threshold - ESTIMATE_SLACK
    found, waiting, waiting_pairs = list[I64](), list[I64](), 0
    for band in range(settings.bands):
        columns = signatures[rows, band * places : (band + 1) * places].astype(np.uint64)
        keys = np.zeros(len(rows), np.uint64)
        for column in columns.T:
            keys = _mixed(keys * _BASE + column)
        order = np.argsort(keys, kind="stable")
        in_order = keys[order]
        for distance in range(1, min(BAND_NEIGHBOURS, len(rows) - 1) + 1):
            same = np.flatnonzero(in_order[distance:] == in_order[:-distance])
            if not len(same):
                break
            waiting.append(rows[order[same]] * len(signatures) + rows[order[same + distance]])
            waiting_pairs += len(same)
        # A pair meets in many bands, and is looked at once for as many bands as fit into memory.
        if waiting_pairs > PAIRS_AT_ONCE:
            found.append(_agreeing(signatures, waiting, least))
            waiting, waiting_pairs = [], 0
    found.append(_agreeing(signatures, waiting, least))
    return np.unique(np.concatenate(found), axis=0)


def _agreeing(signatures: NDArray[np.uint32], codes: Sequence[I64], least: float) -> I64:
    """The pairs, each coded as first * texts + second, whose signatures agree in enough places."""
    if not codes:
        return np.zeros((0, 2), np.int64)
    pairs = np.stack(np.divmod(np.unique(np.concatenate(codes)), len(signatures)), axis=1)
    agreements = [
        (signatures[part[:, 0]] == signatures[part[:, 1]]).mean(axis=1)
        for part in np.array_split(pairs, len(pairs) // COMPARED_AT_ONCE + 1)
    ]
    return pairs[np.concatenate(agreements) >= least]


def _word_hashes(texts: Sequence[str]) -> tuple[U64, I64]:
    """A hash of each word, and for each text the place of its first one (and the end of all)."""
    folded = [text.casefold() for text in texts]
    text = "\n".join(folded)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[codes]
    before, after = np.zeros_like(kinds), np.zeros_like(kinds)
    before[1:], after[:-1] = kinds[:-1], kinds[1:]
    single, letter = kinds == _SINGLE, kinds == _LETTER
    starts = np.flatnonzero(single | (letter & (before != _LETTER)))
    ends = np.flatnonzero(single | (letter & (after != _LETTER))) + 1
    # A polynomial of each word's characters, as a difference of sums over the whole block.
    powers, inverses = _powers(len(codes))
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes + np.uint64(1)) * powers, out=sums[1:])
    words = _mixed((sums[ends] - sums[starts]) * inverses[starts])
    text_starts = _offsets(np.array([len(text) + 1 for text in folded], np.int64))
    return words, np.searchsorted(starts, text_starts).astype(np.int64)


@cache
def _kinds() -> NDArray[np.uint8]:
    """For each code point: 0 between words, 1 inside a word, 2 a word of its own."""
    kinds = np.fromiter((chr(code).isalnum() for code in range(0x110000)), np.uint8, 0x110000)
    for first, last in (
        (0x3040, 0x30FF),  # Hiragana, Katakana
        (0x3400, 0x4DBF),  # CJK, extension A
        (0x4E00, 0x9FFF),  # CJK
        (0xAC00, 0xD7AF),  # Hangul
        (0xF900, 0xFAFF),  # CJK, compatibility
        (0x20000, 0x323AF),  # CJK, later extensions
    ):
        kinds[first : last + 1] *= _SINGLE
    return kinds


def _powers(count: int) -> tuple[U64, U64]:
    """The first powers of an odd number modulo 2^64, from the first on, and their inverses."""
    powers, inverses = _all_powers(-(-count // BLOCK_CHARACTERS) * BLOCK_CHARACTERS)
    return powers[:count], inverses[:count]


@lru_cache(maxsize=2)
def _all_powers(count: int) -> tuple[U64, U64]:
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    powers = np.multiply.accumulate(np.full(count, _BASE, np.uint64))
    # inverses[n] * powers[n] is the base itself: a word's first character always weighs as much.
    inverses = np.multiply.accumulate(np.full(count, inverse, np.uint64))
    return powers, inverses * _BASE


def _offsets(lengths: I64) -> I64:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _times(first: np.uint64, second: np.uint64) -> np.uint64:
    """Product modulo 2^64; numpy warns of the overflow of scalars, though not of arrays."""
    return np.multiply(np.array([first]), second)[0]


def _mixed(values: U64) -> U64:
    """The finalizer of SplitMix64 (Steele et al., 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
