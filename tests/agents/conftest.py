"""Fixtures for tests of agents."""

import pytest
import torch


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    """The host, and a CUDA device where there is one."""
    name = str(request.param)
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return name
