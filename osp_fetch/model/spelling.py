"""Which known word a person may have meant."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known word that is most like `word`, None if none is like it.

    Args:
        word: the unknown word.
        known: the words that are known.
        cutoff: the least likeness, from 0 to 1, by which `difflib` compares words.
    """
    from difflib import get_close_matches  # few runs need it

    return next(iter(get_close_matches(word, list(known), n=1, cutoff=cutoff)), None)
