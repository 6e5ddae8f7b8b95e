"""A small MLLM pre-trained from scratch on drawn, captioned pictures, to watch its abilities grow.

`run` does all of it; the command line's `radar-callback demo` shows and keeps what comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radar_callback.demo.training import DemoPaths, run

__all__ = ["DemoPaths", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from radar_callback.demo import training as module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
