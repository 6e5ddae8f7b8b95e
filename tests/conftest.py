"""What several tests need: a free port, the shared real data, one thread a process."""

import os
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")

GOLDEN = Path(__file__).resolve().parent / "data" / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real items that do not belong into the repository; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder `shared` beside the checkout (real items)")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """A fake M3-Bench, a tiny Qwen2-VL, and what the published script says of them; see its README."""
    return GOLDEN


@pytest.fixture
def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
