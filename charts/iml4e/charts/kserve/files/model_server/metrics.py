"""Counters for Prometheus. Every series exists at 0 from the start, so that `increase()` sees the first event.

The numbers lie in memory that forked workers share: each worker writes its own slot, and any worker tells the sum. A
library is not used because an image with nothing but MLflow has none.
"""

import mmap

PROTOCOLS = ("v1", "v2")
CODES = (200, 400, 404, 405, 413, 415, 429, 500, 503)
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by protocol and status code, their duration, and calls of the model."""

    def __init__(self, model: str, version: str, slots: int = 1) -> None:
        # "unknown": a caller who makes up model names must not make up time series
        self.labels = [
            f'model="{name}",version="{_escaped(version) if name == model else ""}",protocol="{protocol}"'
            for name in (model, "unknown")
            for protocol in PROTOCOLS
        ]
        self._stride = len(CODES) + len(BUCKETS) + 2  # a group: codes, buckets, +Inf, sum of seconds
        self._size = len(self.labels) * self._stride + 2  # calls of the model, rows in them
        self._memory = memoryview(mmap.mmap(-1, slots * self._size * 8)).cast("d")
        self._slots = slots
        self.slot = 0
        self._model = f'model="{model}",version="{_escaped(version)}"'

    def request(self, known: bool, protocol: str, code: int, seconds: float) -> None:
        """Count an answered prediction request.

        Args:
            known: whether the request named this server's model.
            protocol: "v1" or "v2".
            code: HTTP status.
            seconds: time from the head of the request to its answer.
        """
        group = self.slot * self._size + (2 * (not known) + (protocol == "v2")) * self._stride
        self._memory[group + CODES.index(code if code in CODES else code // 100 * 100)] += 1
        group += len(CODES)
        bucket = next((number for number, limit in enumerate(BUCKETS) if seconds <= limit), len(BUCKETS))
        self._memory[group + bucket] += 1
        self._memory[group + len(BUCKETS) + 1] += seconds

    def call(self, rows: int) -> None:
        """Count a call of the model with this many rows."""
        end = (self.slot + 1) * self._size
        self._memory[end - 2] += 1
        self._memory[end - 1] += rows

    def text(self) -> str:
        """Return all series in Prometheus' text format, summed over the workers."""
        size = self._size
        total = [sum(self._memory[slot * size + number] for slot in range(self._slots)) for number in range(size)]
        requests, seconds = [], []
        for number, labels in enumerate(self.labels):
            group = total[number * self._stride : (number + 1) * self._stride]
            requests += [
                f'model_server_requests_total{{{labels},code="{code}"}} {value:.0f}'
                for code, value in zip(CODES, group, strict=False)
            ]
            count = 0.0
            for limit, value in zip((*BUCKETS, "+Inf"), group[len(CODES) :], strict=False):
                count += value
                seconds.append(f'model_server_request_duration_seconds_bucket{{{labels},le="{limit}"}} {count:.0f}')
            seconds.append(f"model_server_request_duration_seconds_count{{{labels}}} {count:.0f}")
            seconds.append(f"model_server_request_duration_seconds_sum{{{labels}}} {group[-1]!r}")
        return "\n".join(
            [
                "# HELP model_server_requests_total Answered prediction requests.",
                "# TYPE model_server_requests_total counter",
                *requests,
                "# HELP model_server_request_duration_seconds From the head of a prediction request to its answer.",
                "# TYPE model_server_request_duration_seconds histogram",
                *seconds,
                "# HELP model_server_model_calls_total Calls of the model; fewer than requests where it batches.",
                "# TYPE model_server_model_calls_total counter",
                f"model_server_model_calls_total{{{self._model}}} {total[-2]:.0f}",
                "# HELP model_server_model_rows_total Rows that the model predicted.",
                "# TYPE model_server_model_rows_total counter",
                f"model_server_model_rows_total{{{self._model}}} {total[-1]:.0f}",
                "",
            ]
        )


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
