"""Real data and a real checkpoint, which lie beside the project or where ``CAHP_SHARED`` says; never in it."""

import os
from pathlib import Path

import pytest


def shared(*parts: str) -> Path:
    """A path of the shared folder; skips the test where there is none."""
    root = Path(os.environ.get("CAHP_SHARED") or Path(__file__).parents[2] / "shared")
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"there is no {'/'.join(parts)} in CAHP_SHARED or ../shared")
    return path
