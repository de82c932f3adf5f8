"""benchmarks/children.py: calls in processes of their own, whatever ends them."""

import os
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TASKS = """
import os, signal, sys, time

def double(x): return 2 * x
def process(): return os.getpid()
def talk(): print("not an answer"); return "answer"
def fail(): raise ValueError("two\\n lines")
def take(gb): bytearray(gb << 30)
def killed(): os.kill(os.getpid(), signal.SIGKILL)
def aborted(): os.abort()
def leave(): os._exit(3)
def sleep(): time.sleep(60)
"""


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "tasks.py").write_text(TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        patch.setenv("PYTHONPATH", str(folder))
        from children import Children

        with Children() as made:
            yield made


def test_each_call_is_a_process_of_its_own(children):
    assert children.call("tasks:double", x=21) == {"value": 42}
    pids = {children.call("tasks:process")["value"] for _ in range(2)}
    assert len(pids - {os.getpid()}) == 2
    assert children.call("tasks:talk") == {"value": "answer"}


@pytest.mark.parametrize(
    ("task", "arguments", "error"),
    [
        ("fail", {}, "ValueError: two lines"),
        ("take", {"gb": 1 << 20}, "out of memory"),
        ("killed", {}, "out of memory"),  # as the system ends who took too much
        ("aborted", {}, "ended by SIGABRT"),
        ("leave", {}, "ended by itself"),
        ("sleep", {"seconds": 0.2}, "took more than 0.2 s"),
    ],
)
def test_what_ends_a_child_ends_nothing_else(children, task, arguments, error):
    assert children.call(f"tasks:{task}", **arguments) == {"error": error}
    assert children.call("tasks:double", x=1) == {"value": 2}


def test_a_limit_is_a_child_s(children):
    found = children.call("scaling_memory:fits", shape=(512, 4096, 8), impl="eager", room=1 << 20)
    assert found == {"error": "out of memory"}
    found = children.call("scaling_memory:fits", shape=(512, 4096, 8), impl="eager", room=1 << 28)
    assert found == {"value": True}


def test_without_the_process_that_starts_them(children):
    children.call("tasks:double", x=1)
    children._server.terminate()
    children._server.wait()
    assert "error" in children.call("tasks:double", x=1)
    assert children.call("tasks:double", x=1) == {"value": 2}  # another one is started
