"""Docstrings of this project as Markdown: they are written for `help()`, with Sphinx roles and a heading `Example:`."""

from __future__ import annotations

import re

import griffe

_ROLE = re.compile(r":(?:class|func|meth|math):`~?([^`]+)`")
_FORMULA = re.compile(r"^( *)\.\. math:: (.+)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Roles become code, and `Example:` the heading under which griffe looks for `>>>`."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value)
            text = _FORMULA.sub(r"\1`\2`", text)
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", text)
