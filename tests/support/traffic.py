"""Clients that use a release without a pause while something happens to it, each call once, and count what fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self

#: Seconds between two calls of one client.
PAUSE = 0.1


class Traffic:
    """Calls functions in a thread each, until the end of the `with` block."""

    def __init__(self, **calls: Callable[[], Any]) -> None:
        """Take the calls by name; one that raises has failed."""
        self.calls = calls
        self.answered = dict.fromkeys(calls, 0)
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=each, daemon=True) for each in calls.items()]

    def __enter__(self) -> Self:
        """Start, and wait until every client had an answer."""
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 60
        while not all(self.answered.values()) and not self.failures and time.monotonic() < end:
            time.sleep(PAUSE)
        assert all(self.answered.values()), self.failures or self.answered
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, name: str, call: Callable[[], Any]) -> None:
        while not self._stop.wait(PAUSE):
            start = time.time()
            try:
                call()
                self.answered[name] += 1
            except Exception as error:
                what = " ".join(str(error).split())[:300]
                self.failures.append(
                    f"{time.strftime('%H:%M:%S', time.gmtime(start))} {name}: {type(error).__name__} {what}"
                )
