"""Texts: many words, varied phones, and tests that were not trained on."""

from __future__ import annotations

import numpy as np
import pytest

from emo_core.training.texts import TEST_SENTENCES, WORDS, training_text


def test_enough_words_and_sentences() -> None:
    assert len(WORDS["en"]) >= 340 and len(set(TEST_SENTENCES)) >= 10
    assert all(word.isalpha() and word.isascii() for words in WORDS.values() for word in words)


@pytest.mark.parametrize("language", sorted(WORDS))
def test_training_text_is_seeded_and_drawn_from_the_list(language: str) -> None:
    text = training_text(np.random.default_rng(1), language=language)
    assert text == training_text(np.random.default_rng(1), language=language)
    words = text.rstrip(".").replace(",", "").split()
    assert 2 <= len(words) <= 8 and set(words) <= set(WORDS[language])
    assert len(training_text(np.random.default_rng(1), 11, language).split()) == 11


def test_no_training_text_is_a_test_sentence() -> None:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = text.lower().rstrip(".").replace(",", "").split()
        return {tuple(words[first : first + 3]) for first in range(len(words) - 2)}

    rng = np.random.default_rng(0)
    trained = set().union(*(runs(training_text(rng)) for _ in range(500)))
    tested = set().union(*map(runs, TEST_SENTENCES))
    assert len(trained) > 500 and len(tested) > 50
    assert not trained & tested
