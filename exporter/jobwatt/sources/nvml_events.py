"""XID events: what the driver reports of a GPU in trouble, picked up without waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobwatt.model import Failure, Sample
from jobwatt.sources.nvml_calls import TIMEOUT, BackOff, Calls, DriverGoneError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobwatt.sources.nvml_facts import Facts

_XID = 0x8  # nvmlEventTypeXidCriticalError
_MOST = 64  # in one read: a storm goes on in the next


class Events:
    """
    One event set for all GPUs that are up. A failing set is made anew after a while, without the
    GPUs that are lost.
    """

    def __init__(self, api: Any) -> None:
        self._calls = Calls(api, "", "XID events")
        self._back_off = BackOff()
        self._set: Any = None
        self._indices: dict[str, str] = {}

    def read(self, gpus: Iterable[Facts], now_ns: int) -> tuple[list[Sample], list[Failure]]:
        """Events since the last read, and what failed. ``gpus``: those that are up."""
        if self._set is None and self._back_off.due(now_ns):
            self._register(gpus, now_ns)
        events = self._drain(now_ns) if self._set is not None else []
        return events, self._calls.take_failures()

    def _register(self, gpus: Iterable[Facts], now_ns: int) -> None:
        self._indices = {}
        self._set = self._calls.ask("nvmlEventSetCreate")
        if self._set is None:
            self._back_off.fail(now_ns)
            return
        for gpu in gpus:
            self._indices[gpu.uuid] = str(gpu.index)
            name = "nvmlDeviceRegisterEvents"
            self._calls.ask(name, gpu.handle, _XID, self._set, key=f"{name} {gpu.uuid}")

    def _drain(self, now_ns: int) -> list[Sample]:
        samples: list[Sample] = []
        for _ in range(_MOST):
            event = self._calls.ask("nvmlEventSetWait_v2", self._set, 0, absent=(TIMEOUT,))
            if event is None:
                break
            uuid = self._calls.text("nvmlDeviceGetUUID", event.device) or ""
            labels = (self._indices.get(uuid, ""), uuid, str(event.eventData))
            samples.append(Sample("jobwatt_gpu_xid_events_total", labels, 1))
        if self._calls.failures:
            self._drop(now_ns)
        else:
            self._back_off.succeed()
        return samples

    def _drop(self, now_ns: int) -> None:
        self._back_off.fail(now_ns)
        self.renew()

    def renew(self) -> None:
        """Make the set anew at the next read: a GPU has come or gone."""
        dropped, self._set = self._set, None
        if dropped is not None:
            self._calls.ask("nvmlEventSetFree", dropped)

    def close(self) -> None:
        """Give the set back."""
        try:
            self.renew()
        except DriverGoneError:
            self._set = None  # nobody is left to give it back to
