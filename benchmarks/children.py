"""Calls in processes of their own, one after the other, on this machine's processor.

Each is forked from one that has the packages loaded and has computed nothing: it starts in
milliseconds, and holds nothing of the others. What ends a child is its error and ends nothing else.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

LOADED = ("torch", "tla_ops", "numpy", "faiss", "pytorch_metric_learning.miners", "sklearn.metrics")
"""What a call imports is no part of its memory."""


class Children:
    """`call("module:function", argument=...)` gives {"value": ...} or {"error": "..."}."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def call(self, task: str, seconds: float = 120, **arguments: Any) -> dict[str, Any]:
        if self._server is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            env = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}  # no children of children
            self._server = subprocess.Popen([sys.executable, __file__], text=True, env=env, **pipes)
        asked = {"task": task, "seconds": seconds, "arguments": arguments}
        try:
            print(json.dumps(asked), file=self._server.stdin, flush=True)
            answer = self._server.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.close()
            return {"error": "the process that starts children ended"}
        return json.loads(answer)

    def close(self) -> None:
        if self._server is not None:
            with suppress(BrokenPipeError):
                self._server.communicate()  # an end of its input ends it
            self._server = None

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def described(error: BaseException) -> str:
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "out of memory" in said or "allocate memory" in said:
        return "out of memory"
    return f"{type(error).__name__}: {said[:160]}"


def limit_memory(size: int | None = None) -> None:
    """An allocation beyond (by default: that the machine has no room for) fails, and ends nothing
    else."""
    size = machine_bytes() if size is None else size
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.getrlimit(resource.RLIMIT_AS)[1]))


def machine_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what packages print is no answer
    for name in LOADED:
        with suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_in_a_child(**json.loads(line))), file=answers, flush=True)


def _in_a_child(task: str, seconds: float, arguments: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            os.write(writing, json.dumps(_answer(task, arguments)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        in_time = bool(select.select([pipe], [], [], seconds)[0])
        if not in_time:
            os.kill(child, signal.SIGKILL)
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    if said:
        return json.loads(said)
    if not in_time:
        return {"error": f"took more than {seconds:g} s"}
    by = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "itself"
    return {"error": "out of memory" if by == "SIGKILL" else f"ended by {by}"}


def _answer(task: str, arguments: dict[str, Any]) -> dict[str, Any]:
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory is short, a child goes first
    module, function = task.split(":")
    try:
        return {"value": getattr(importlib.import_module(module), function)(**arguments)}
    except Exception as error:
        return {"error": described(error)}


if __name__ == "__main__":
    serve()
