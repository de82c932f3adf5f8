"""Runs steps one after the other, each under a time limit, and keeps what each of them left.

A step that fails or is cut short does not stop the next; summary.json is written after each.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

PASSED, FAILED, CUT, SKIPPED = "passed", "failed", "cut short", "skipped"


@dataclass
class Step:
    """A command and its limit in seconds; `missing` says why it cannot run."""

    name: str
    command: Sequence[str]
    limit: float
    variables: Mapping[str, str] = field(default_factory=dict)
    missing: str | None = None
    needed: bool = False
    """Whether nothing after it can run without it."""


@dataclass
class Outcome:
    name: str
    status: str
    seconds: float
    detail: str


class Runner:
    """Runs steps into one folder: log.txt and summary.json beside what the steps write there."""

    def __init__(
        self,
        results: Path,
        folder: Path,
        variables: Mapping[str, str],
        seconds: float,
        facts: Mapping[str, object],
    ) -> None:
        self.results, self.folder, self.variables = results, folder, dict(variables)
        self.deadline = time.monotonic() + seconds
        self.facts = dict(facts)
        self.outcomes: list[Outcome] = []
        self.broken: str | None = None
        results.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.log = results / "log.txt"
        self.log.write_text("")

    def run(self, steps: Sequence[Step]) -> bool:
        """Whether every step passed, those of earlier calls too."""
        for step in steps:
            reason = step.missing or (self.broken and f"{self.broken} did not pass")
            if reason is None and time.monotonic() >= self.deadline:
                reason = "no time left"
            print(f"--- {step.name}", flush=True)
            try:
                outcome = Outcome(step.name, SKIPPED, 0.0, reason) if reason else self._run(step)
            except BaseException as error:
                self.outcomes.append(Outcome(step.name, CUT, 0.0, type(error).__name__))
                self.save()
                raise
            self.outcomes.append(outcome)
            self.save()
            print(f"    {outcome.status} in {outcome.seconds:.1f} s: {outcome.detail}", flush=True)
            if step.needed and outcome.status != PASSED:
                self.broken = step.name
        return all(outcome.status == PASSED for outcome in self.outcomes)

    def _run(self, step: Step) -> Outcome:
        limit = min(step.limit, self.deadline - time.monotonic())
        started = time.monotonic()
        begins = self.log.stat().st_size
        with self.log.open("a") as log:
            log.write(f"=== {step.name}: {' '.join(map(str, step.command))}\n")
            log.flush()
            try:
                # A process group of its own, so that a cut ends what the step started, too.
                child = subprocess.Popen(
                    list(map(str, step.command)),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    cwd=self.folder,
                    env=os.environ | self.variables | dict(step.variables),
                    start_new_session=True,
                )
            except OSError as error:
                return Outcome(step.name, FAILED, 0.0, str(error))
            try:
                status = child.wait(limit)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                # Also where this process is interrupted.
                end(child)
        seconds = time.monotonic() - started
        with self.log.open("rb") as log:
            log.seek(begins)
            lines = log.read().decode(errors="replace").splitlines()[1:]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if status is None:
            return Outcome(step.name, CUT, seconds, f"after {limit:.0f} s; {last}".rstrip("; "))
        if status:
            # A compiler's first errors stand far above the end of what a build prints.
            early = [line for line in lines[:-20] if "error:" in line.lower()][:8]
            print("\n".join(f"    | {line}" for line in early + lines[-20:]), flush=True)
            return Outcome(step.name, FAILED, seconds, f"exit status {status}; {last}".rstrip("; "))
        return Outcome(step.name, PASSED, seconds, last)

    def save(self) -> None:
        document = self.facts | {"steps": [asdict(outcome) for outcome in self.outcomes]}
        temporary = self.results / "summary.tmp"
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(temporary, self.results / "summary.json")

    def table(self) -> str:
        width = max(len(outcome.name) for outcome in self.outcomes)
        return "\n".join(
            f"{o.name:<{width}}  {o.status:<9}  {o.seconds:6.1f} s  {o.detail[:90]}"
            for o in self.outcomes
        )


def end(child: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the child's process group."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(3)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def stop_on_sigterm() -> None:
    """An outer time limit ends the step that runs, too, and the summary is there."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
