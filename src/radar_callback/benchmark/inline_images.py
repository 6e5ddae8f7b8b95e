"""Images that are written into a text field: base64, or a data URI."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from radar_callback.benchmark.decode import FORMATS, sniff
from radar_callback.benchmark.images import ImageFileError

SHORTEST = 40
"""Characters of base64 that an image takes at least; a shorter text is a path."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]+={0,2}\s*")
_HEAD = 200


def is_inline(text: str) -> bool:
    """Whether a text holds an image itself, and not its path.

    Example:
        >>> is_inline("data:image/png;base64,iVBORw0KGgo"), is_inline("images/1.png")
        (True, False)
    """
    if text[:5].lower() == "data:":
        return True
    if len(text) < SHORTEST or not _BASE64.fullmatch(text):
        return False
    # A path may consist of these characters too, but its first bytes are those of no image.
    try:
        return sniff(_from_base64(text[:_HEAD])) in FORMATS
    except binascii.Error:
        return False


def decode_inline(text: str, where: str) -> bytes:
    """The image file that a text holds.

    Args:
        text: Base64, with line breaks or without, or a data URI.
        where: Names the item in the error.

    Raises:
        ImageFileError: If it is a data URI without data, or damaged base64.
    """
    try:
        if text[:5].lower() != "data:":
            return _from_base64(text)
        head, comma, data = text.partition(",")
        if not comma:
            raise binascii.Error("a data URI has a comma before its data")
        # Base64 is escaped in some URIs: %2B for +, %0A for a line break.
        return _from_base64(unquote_to_bytes(data).decode("latin-1")) if _says_base64(head) else unquote_to_bytes(data)
    except binascii.Error as error:
        raise ImageFileError(f"{where}: Expected an image in base64, but {str(error).lower()}.") from None


def _says_base64(head: str) -> bool:
    return head.rstrip().lower().endswith(";base64")


def _from_base64(text: str) -> bytes:
    plain = re.sub(r"\s+", "", text).rstrip("=").translate(str.maketrans("-_", "+/"))
    return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
