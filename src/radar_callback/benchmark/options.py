"""Options that a person cannot tell apart: two right answers would share the probability, and the item be half lost."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from itertools import combinations

from radar_callback.quoting import LONGEST, quoted

_NUMBER = re.compile(r"[+-]?[0-9]{1,50}(\.[0-9]{1,50})?(e[+-]?[0-9]{1,3})?", re.IGNORECASE)

_INVISIBLE = re.compile(
    # Combining grapheme joiner, Hangul fillers, Khmer inherent vowels, Mongolian and other variation selectors, and below
    # all characters of the categories "format" and "control".
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0000-\U000e0fff]"
)
_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2212", "-"),  # hyphens, figure and en dash, minus
        **dict.fromkeys("\u2018\u2019\u02bc", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        "\u2800": " ",  # Braille pattern without dots
    }
)
_SAME_LOOK = ("<compat>", "<wide>", "<narrow>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>")
"""Unicode's compatibility forms that differ in nothing that a reader of an answer looks at. Others do: x² is not x2."""


def appearance(text: str) -> str:
    r"""What a person sees of a text: equal for texts that cannot be told apart.

    The canonical Unicode form, without characters that have no width, outer blanks and blanks at the end of a line; each run
    of blanks within a line is one, but for those that indent it. Case, and what is raised or lowered, stays.

    Example:
        >>> appearance("red\u200b "), appearance("cafe\u0301") == appearance("caf\u00e9"), appearance("x²")
        ('red', True, 'x²')
    """
    if text.isascii() and text.isprintable():
        plain = text
    else:
        plain = "".join(map(_plain, unicodedata.normalize("NFC", text)))
        plain = unicodedata.normalize("NFC", _INVISIBLE.sub("", plain).translate(_ALIKE))
    lines = [re.sub(r"(?<=\S)[^\S\n]+", " ", line).rstrip() for line in plain.splitlines()]
    return "\n".join(lines).strip()


def _plain(character: str) -> str:
    if character.isspace():
        return character if character in "\n\r\v\f\x85\u2028\u2029" else " "
    if unicodedata.category(character) in ("Cf", "Cc"):
        return ""
    if unicodedata.decomposition(character).startswith(_SAME_LOOK):
        return unicodedata.normalize("NFKC", character)
    return character


def look_alike_problem(options: Sequence[str]) -> str | None:
    r"""Why options do not make sense to a person, as part of a sentence; None if they do.

    Args:
        options: All of them.

    Returns:
        The first two that look the same, or one that shows nothing, spelled so that the difference can be seen.

    Example:
        >>> look_alike_problem(["red", "blue"]) is None
        True
        >>> look_alike_problem(["red", "red\u200b"])
        "options 'red' and 'red\\u200b' look the same"
    """
    seen = [appearance(option) for option in options]
    if len(set(seen)) == len(seen) and all(seen):
        return None
    for option, shown in zip(options, seen, strict=True):
        if not shown:
            return f"option {_spelled(option)} shows nothing"
    first, second = next((a, b) for a, b in combinations(range(len(seen)), 2) if seen[a] == seen[b])
    return f"options {_spelled(options[first])} and {_spelled(options[second])} look the same"


def same_number_problem(options: Sequence[object]) -> str | None:
    """Why options are one number written twice, as part of a sentence; None if they are not.

    Args:
        options: Texts and numbers.

    Example:
        >>> same_number_problem([1, 1.0, 2]), same_number_problem(["1/2", "0.5"])
        ('options 1 and 1.0 are the same number', None)
    """
    seen: dict[Decimal, object] = {}
    for option in options:
        if not _NUMBER.fullmatch(str(option).strip()):
            continue
        first = seen.setdefault(Decimal(str(option).strip()), option)
        if first is not option and str(first) != str(option):
            return f"options {quoted(first)} and {quoted(option)} are the same number"
    return None


def _spelled(text: str) -> str:
    spelled = ascii(text[:LONGEST])
    return spelled if len(spelled) <= LONGEST else spelled[: LONGEST - 1] + "…"
