"""Takes the tests that pages link to (`../tests/…`, which is where they are for a reader of the repository) into the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\]\(\.\./(tests/[\w/]+\.py)\)")
_TOP = Path(__file__).parents[2]


def on_files(files: Files, config: Any) -> Files:
    """Adds each test that a page links to; one that does not exist fails the build, as any dead link does."""
    pages = [file for file in files.documentation_pages() if file.abs_src_path]
    named = {name for page in pages for name in _LINK.findall(Path(page.abs_src_path).read_text(encoding="utf-8"))}
    for name in sorted(named):
        files.append(File.generated(config, f"{name}.txt", content=(_TOP / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **unused: Any) -> str:
    """Points the links to where they are in the site; as text, which every browser shows."""
    return _LINK.sub(r"](\1.txt)", markdown)
