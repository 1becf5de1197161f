"""
GPM: activity of the SMs, tensor pipes and device memory, on Hopper and later.

A figure is the average between two samples, which must lie more than 100 ms apart (nvml.h,
nvmlGpmMetricsGet). The counters may be held by a profiler: then there are no figures, quietly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from jobwatt.sources.nvml_calls import Calls

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_WINDOW_NS = 100_000_000

# NVML_GPM_METRIC_*: any engine in use, SM_UTIL, SM_OCCUPANCY, ANY_TENSOR_UTIL, DRAM_BW_UTIL.
BUSY, SM, OCCUPANCY, TENSOR, DRAM = 1, 2, 3, 5, 10
_IDS = (BUSY, SM, OCCUPANCY, TENSOR, DRAM)

SAMPLES: Final = (
    (SM, "jobwatt_gpu_sm_active_ratio"),
    (OCCUPANCY, "jobwatt_gpu_sm_occupancy_ratio"),
    (TENSOR, "jobwatt_gpu_tensor_active_ratio"),
    (DRAM, "jobwatt_gpu_dram_active_ratio"),
)


class Gpm:
    """GPM of one GPU, or of one GPU instance of it (``gi``). The window is between two reads."""

    __slots__ = (
        "_buffers",
        "_calls",
        "_clock",
        "_get",
        "_items",
        "_last_ns",
        "_newer",
        "_older",
        "_request",
        "ratios",
    )

    def __init__(
        self, api: Any, calls: Calls, handle: Any, clock: Callable[[], int], gi: int | None = None
    ) -> None:
        self._calls, self._clock = calls, clock
        self._buffers = Calls(api, "", "GPM")  # samples belong to no GPU until they are taken
        self._get = (
            ("nvmlGpmSampleGet", handle) if gi is None else ("nvmlGpmMigSampleGet", handle, gi)
        )
        self._older = self._newer = self._request = None
        self._items: list[Any] = []
        self._last_ns = 0
        self.ratios: dict[int, float] = {}
        support = calls.ask_optional("nvmlGpmQueryDeviceSupport", handle)
        if support is not None and support.isSupportedDevice:
            self._prepare(api)

    def _prepare(self, api: Any) -> None:
        self._older = self._buffers.ask_optional("nvmlGpmSampleAlloc")
        self._newer = self._buffers.ask_optional("nvmlGpmSampleAlloc")
        if self._older is None or self._newer is None:
            self._calls.failures += self._buffers.take_failures()
            self.close()
            return
        request = api.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = api.NVML_GPM_METRICS_GET_VERSION, len(_IDS)
        metrics = request.metrics
        self._items = [metrics[i] for i in range(len(_IDS))]
        for item, metric_id in zip(self._items, _IDS, strict=True):
            item.metricId = metric_id
        self._request = request

    def read(self) -> dict[int, float]:
        """Ratios 0 ... 1 by metric id over the time since the last read; the last ones if too soon."""
        if self._request is None:
            return self.ratios
        if self._last_ns and self._clock() - self._last_ns <= MIN_WINDOW_NS:
            return self.ratios
        if self._calls.ask_optional(self._get[0], *self._get[1:], self._newer) is None:
            self._miss()
            return self.ratios
        if self._last_ns:
            self.ratios = self._evaluate()
        self._last_ns = self._clock()  # after the sample: the window is never shorter than it seems
        self._older, self._newer = self._newer, self._older
        return self.ratios

    def _evaluate(self) -> dict[int, float]:
        request = self._request
        request.sample1, request.sample2 = self._older, self._newer  # type: ignore[attr-defined]
        if self._calls.ask_optional("nvmlGpmMetricsGet", request) is None:
            return {}
        values = (
            (key, item.value)
            for key, item in zip(_IDS, self._items, strict=True)
            if not item.nvmlReturn
        )
        # SM activity of a MIG instance is seen above 100 % (DCGM#152).
        return {
            key: min(max(value, 0.0), 100.0) / 100 for key, value in values if math.isfinite(value)
        }

    def _miss(self) -> None:
        """No sample: for good where it is not supported, else the window begins anew."""
        self._last_ns, self.ratios = 0, {}
        if self._get[0] in self._calls.unsupported:
            self.close()

    def close(self) -> None:
        """Give the samples back; there are no figures from here on."""
        for sample in (self._older, self._newer):
            if sample is not None:
                self._buffers.ask_optional("nvmlGpmSampleFree", sample)
        self._older = self._newer = self._request = None
        self.ratios = {}


def permille(ratio: float | None) -> int | None:
    """A ratio in parts per thousand, upwards: a little activity is not idleness."""
    return None if ratio is None else math.ceil(ratio * 1000 - 1e-9)
