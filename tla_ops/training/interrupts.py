"""Ctrl-C, and a scheduler's SIGTERM, as a request that the loop meets between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from lightning.fabric import Fabric

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """``with StopRequest(fabric) as stop: ... stop.requested()`` after each step; without a fabric
    there is one process.

    The first signal is noted, a second one raises KeyboardInterrupt where it meets the program.
    Among several processes a request counts for all from the same step on, so that none waits for
    another one's gradients.
    """

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.fabric = fabric
        self._seen = False
        self._before: dict[signal.Signals, Any] = {}
        self._told: torch.Tensor | None = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._seen:
            raise KeyboardInterrupt
        self._seen = True
        # Not print: a signal may have come while another print holds the stream.
        os.write(2, b"stopping after this step; once more stops at once\n")

    def requested(self) -> bool:
        """Whether to stop here; every process gets the same answer at the same step."""
        if self.fabric is None or self.fabric.world_size == 1:
            return self._seen
        # The answer of the step before: reading it does not wait for the device's present work.
        before = self._told
        seen = torch.tensor(float(self._seen), device=self.fabric.device)
        self._told = self.fabric.all_reduce(seen, reduce_op="sum")  # type: ignore[assignment]
        return before is not None and bool(before > 0)
