"""Shingles, similarity and LSH against plain Python; texts of several scripts."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwenft_assets.config import MinHashConfig
from qwenft_assets.text import near_duplicates
from qwenft_assets.text.near_duplicates import (
    clusters,
    exact_similarities,
    similar_pairs,
    word_shingles,
)

ALIKE = MinHashConfig(threshold=0.6, shingle_words=2)


def plain_shingles(text: str, size: int) -> set[tuple[str, ...]]:
    """Letters and digits only, by a loop; for texts without ideographs."""
    cleaned = "".join(c if c.isalnum() else " " for c in text.casefold())
    words = cleaned.split()
    if not words:
        return set()
    return {tuple(words[n : n + size]) for n in range(max(1, len(words) - size + 1))}


def plain_jaccard(first: str, second: str, size: int) -> float:
    a, b = plain_shingles(first, size), plain_shingles(second, size)
    return len(a & b) / len(a | b) if a and b else float(a == b)


text = st.text(alphabet=st.sampled_from("aab B1.,;\n\tÄß_-"), max_size=40)


@given(st.lists(text, min_size=2, max_size=6), st.integers(1, 4))
@settings(deadline=None)
def test_similarity_is_the_jaccard_index_of_word_shingles(texts, size):
    pairs = list(combinations(range(len(texts)), 2))
    expected = [plain_jaccard(texts[a], texts[b], size) for a, b in pairs]
    assert exact_similarities(texts, pairs, size) == pytest.approx(expected)


def test_shingles_do_not_depend_on_the_texts_beside_them(monkeypatch):
    texts = ["one two three four", "", "five", "... !", "six seven eight"]
    together = word_shingles(texts, 3)
    for n, single in enumerate(texts):
        alone = word_shingles([single], 3)
        part = together.hashes[together.offsets[n] : together.offsets[n + 1]]
        assert np.array_equal(part, alone.hashes)
    assert together.words.tolist() == [4, 0, 1, 0, 3]
    assert np.diff(together.offsets).tolist() == [2, 0, 1, 0, 1]


def test_every_chinese_character_is_a_word():
    assert word_shingles(["低压差线性稳压器"], 3).words.tolist() == [8]
    texts = ["低压差线性稳压器的作用是什么？请简要说明", "低压差线性稳压器的用途是什么？请简要说明"]
    (similarity,) = exact_similarities(texts, [(0, 1)], 2)
    assert similarity > 0.6


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [
        pytest.param(
            "What is the boiling point of water at sea level?",
            "At sea level, what is the boiling point of water?",
            True,
            id="reordered",
        ),
        pytest.param(
            "How does a phase-locked loop lock onto its reference clock?",
            "How does a phase locked loop lock onto the reference clock",
            True,
            id="one-word-changed",
        ),
        pytest.param(
            "What is the role of insulin in the liver?",
            "What is the role of cortisol in the kidney?",
            False,
            id="same-frame",
        ),
        pytest.param("...", "!!!", False, id="no-words"),
    ],
)
def test_similar_questions_are_found(first, second, alike):
    assert bool(similar_pairs([first, second], ALIKE)) is alike


def test_pairs_do_not_depend_on_the_blocks_and_are_the_same_each_time(monkeypatch):
    texts = [f"question {n // 2} about subject number {n // 2 * 7} of {n // 2}" for n in range(200)]
    pairs = similar_pairs(texts, ALIKE)
    assert [(pair.first, pair.second) for pair in pairs if pair.similarity == 1] == [
        (n, n + 1) for n in range(0, 200, 2)
    ]
    monkeypatch.setattr(near_duplicates, "BLOCK_CHARACTERS", 100)
    assert similar_pairs(texts, ALIKE) == pairs


def test_many_equal_texts_stay_one_cluster_without_comparing_all_with_all():
    texts = ["the very same question in many rows"] * 1_000
    pairs = similar_pairs(texts, ALIKE)
    assert len(pairs) < 1_000 * 20
    assert set(clusters(1_000, [(p.first, p.second) for p in pairs])) == {0}


def test_clusters_follow_chains():
    assert clusters(6, [(4, 2), (5, 4), (0, 1)]) == [0, 0, 2, 3, 2, 2]


def test_no_texts_have_no_pairs():
    assert similar_pairs([], ALIKE) == []
    assert similar_pairs(["one text"], ALIKE) == []


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param("\u3041", "\u30ff", id="kana"),
        pytest.param("\u3400", "\u4dbf", id="extension-a"),
        pytest.param("\u4e00", "\u9fff", id="unified"),
        pytest.param("\uac00", "\ud7a3", id="hangul"),
        pytest.param("\uf900", "\ufad9", id="compatibility"),
        pytest.param("\U00020000", "\U0003134a", id="later-extensions"),
    ],
)
def test_characters_of_scripts_without_blanks_are_words_at_both_ends_of_their_block(first, last):
    kinds = near_duplicates._kinds()
    assert (kinds[ord(first)], kinds[ord(last)]) == (2, 2)
    assert all(kinds[code] != 2 for code in (0x3039, 0x3131, 0xA000, 0x1FFFF, 0x323B0))


def test_hashes_are_finished_as_splitmix64_does_it():
    """The first number of its published sequence from seed 1234567."""
    state = np.array([1_234_567], np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    assert near_duplicates._mixed(state)[0] == 6_457_827_717_110_365_317
