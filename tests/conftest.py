"""Fixtures and the hypothesis profile. Tests run against the installed package."""

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import torch
from helpers import DEVICES
from hypothesis import settings
from simt.build import FLAVOURS, why_not
from simt.client import Runner

from tla_ops import _dispatch

settings.register_profile(
    "tla_ops", deadline=None, database=None, derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("tla_ops")


def pytest_configure(config):
    """ART's first import on a machine writes a file, at which workers would surprise each other."""
    if not hasattr(config, "workerinput"):
        with suppress(ImportError):
            importlib.import_module("art.config")


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
            _dispatch._tables[index] = frozenset(_dispatch.OPERATORS + _dispatch.SCREENS)


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path_factory):
    """Python puts the current folder on its path: not the checkout, whose tla_ops is not built."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _seed():
    """The same global random stream at the start of every test."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread():
    """Small work on few cores: threads that wait for each other would cost more than they do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def torchvision_models():
    try:
        import torchvision.models
    except (ImportError, RuntimeError) as error:  # RuntimeError beside a torch of another build
        pytest.skip(f"torchvision cannot be imported: {error}")
    return torchvision.models


@pytest.fixture
def fresh_compiler():
    """A test that compiles starts without the graphs of the one before."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def simt_builds(request, tmp_path_factory):
    """Every flavour of the kernels' bodies that a test wants, compiled behind the tests' back."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    wanted = {call.params["simt"] for call in calls if call and "simt" in call.params}
    folder = tmp_path_factory.mktemp("kernels")
    missing = {flavour: why_not(flavour, folder) for flavour in wanted}
    with ThreadPoolExecutor(1) as pool:
        builds = {
            flavour: pool.submit(Runner, flavour, folder)
            for flavour in FLAVOURS
            if flavour in wanted and not missing[flavour]
        }
        yield missing, builds
        for build in builds.values():
            build.cancel()
    for build in builds.values():
        if not build.cancelled() and not build.exception():
            build.result().close()


@pytest.fixture(scope="session", params=FLAVOURS)
def simt(request, simt_builds):
    """The runner of the kernels' bodies, in every flavour; it knows its own as `flavour`."""
    missing, builds = simt_builds
    if missing[request.param]:
        pytest.skip(missing[request.param])
    return builds[request.param].result()
