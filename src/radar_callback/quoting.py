"""Values in error messages: quoted, and cut to a length that a person reads."""

from __future__ import annotations

from typing import Any

LONGEST = 80
"""Characters of a value that a message shows at most."""


def quoted(value: Any, longest: int = LONGEST) -> str:
    """Quotes a value for an error message, in at most 80 characters.

    Args:
        value: Anything; text is cut before it is quoted, so that an image in a text field costs nothing.
        longest: Characters of the result at most.

    Example:
        >>> quoted("red"), quoted([1, 2])
        ("'red'", '[1, 2]')
        >>> len(quoted("x" * 300_000))
        80
    """
    text = repr(value[: longest + 1] if isinstance(value, str) else value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def shortened(text: str, longest: int = LONGEST) -> str:
    """Cuts a text that stands in a message as it is, such as a path or another library's error.

    Example:
        >>> shortened("a.png"), len(shortened("x" * 300))
        ('a.png', 80)
    """
    return text if len(text) <= longest else text[: longest - 1] + "…"
