from __future__ import annotations

import pytest

from radar_callback.benchmark.mini import generate
from radar_callback.benchmark.sample import Sample


@pytest.fixture(scope="session")
def mini() -> list[Sample]:
    """The whole benchmark, drawn once for all tests."""
    return list(generate())
