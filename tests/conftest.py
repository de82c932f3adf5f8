"""Fixtures and the hypothesis profile. Tests run against the installed package."""

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile(
    "tla_ops", deadline=None, database=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("tla_ops")

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


@pytest.fixture(params=DEVICES)
def device(request):
    """Every device present."""
    return torch.device(request.param)


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
