"""Summarizes a document with sentences of its own, the ones that speak for the most of it."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from flows.outline import Markdown

MOST_CHARACTERS = 800
MOST_SENTENCES = 300
ALIKE = 0.6

# Not after `e.g.` and `i.e.`, which a capital may follow.
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)\s+(?=[^\sa-z])|(?<=[。！？])")
_WORD = re.compile(r"[^\W_]+")

_Weights = Mapping[str, float]


def summarize(document: Markdown, most_characters: int = MOST_CHARACTERS) -> str | None:
    """Return a summary of a document, or None if it has no sentence.

    The first sentence is always part of it. After it come, in the document's order, those whose
    words are most like the words of all sentences together, each only if it says something else
    than those chosen before. The same document always gives the same summary.

    Args:
        document: The document.
        most_characters: The longest summary.

    """
    sentences = list(_sentences(document))
    if not sentences:
        return None
    if len(sentences[0]) > most_characters:
        return sentences[0][: most_characters - 1].rsplit(" ", 1)[0] + "…"
    weights = _weighted(sentences)
    centre: Counter[str] = Counter()
    for one in weights:
        centre.update(one)
    best = sorted(range(1, len(sentences)), key=lambda at: (-_likeness(weights[at], centre), at))
    chosen = [0]
    for at in best:
        length = sum(len(sentences[one]) + 1 for one in chosen) + len(sentences[at])
        if length <= most_characters and not any(
            _likeness(weights[at], weights[one]) > ALIKE for one in chosen
        ):
            chosen.append(at)
    return " ".join(sentences[at] for at in sorted(chosen))


def _sentences(document: Markdown) -> Iterator[str]:
    left = MOST_SENTENCES
    for paragraph, whole in document.paragraphs():
        sentences = _SENTENCE_END.split(paragraph)
        for sentence in sentences if whole else sentences[:-1] or sentences:
            # Rows of badges and links are no sentences.
            if sum(map(str.isalpha, sentence)) < 20:
                continue
            yield sentence.strip()
            left -= 1
            if not left:
                return


def _weighted(sentences: list[str]) -> list[_Weights]:
    """Return each sentence's words, of which those that stand in many sentences weigh little."""
    words = [Counter(_WORD.findall(sentence.lower())) for sentence in sentences]
    having = Counter(word for one in words for word in one)
    return [
        {word: times * math.log(1 + len(words) / having[word]) for word, times in one.items()}
        for one in words
    ]


def _likeness(one: _Weights, other: _Weights) -> float:
    """Return the cosine of two sentences' words, 0 to 1."""
    shared = sum(weight * other.get(word, 0) for word, weight in one.items())
    lengths = math.sqrt(_square(one) * _square(other))
    return shared / lengths if lengths else 0.0


def _square(weights: _Weights) -> float:
    return sum(weight * weight for weight in weights.values())
