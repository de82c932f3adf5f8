"""Fixtures and the hypothesis profile. Tests run against the installed package."""

import os

import pytest
import torch
from helpers import DEVICES
from hypothesis import settings

from tla_ops import _dispatch

settings.register_profile(
    "tla_ops", deadline=None, database=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("tla_ops")


# Session scope is what tests under hypothesis may use.
@pytest.fixture(params=DEVICES, scope="session")
def device(request):
    """Every device present that has kernels."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def _kernels_whatever_the_self_test_says():
    """Tests try the kernels: an operator that the self-test leaves out would run plain PyTorch."""
    if "cuda" in DEVICES:
        for index in range(torch.cuda.device_count()):
            _dispatch._tables[index] = frozenset(_dispatch.OPERATORS)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path_factory):
    """Python puts the current folder on its path: not the checkout, whose tla_ops is not built."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _seed():
    """The same global random stream at the start of every test."""
    torch.manual_seed(0)


@pytest.fixture
def fresh_compiler():
    """A test that compiles starts without the graphs of the one before."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
