"""Peak memory of a process and everything below it, sampled."""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil

EVERY_S = 0.5


class PeakMemory:
    """Context that samples the memory of this process's descendants (or also of itself).

    Shared pages are counted once where the system tells them apart (proportional set size), else in each process.

    Attributes:
        peak_bytes: largest sum seen.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(EVERY_S):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    info = process.memory_full_info()
                    total += getattr(info, "pss", info.rss)
            self.peak_bytes = max(self.peak_bytes, total)
