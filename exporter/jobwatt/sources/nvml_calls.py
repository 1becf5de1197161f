"""
Calls to NVML, each with its own outcome.

What a device does not support is asked once; what fails is noted and said; only two things end
more than their own call: a lost GPU (``GpuLostError``, that GPU) and a lost driver
(``DriverGoneError``, all of them). Codes are those of ``nvmlReturn_t`` in NVIDIA's nvml.h.
"""

from __future__ import annotations

import _ctypes
import logging
from typing import TYPE_CHECKING, Any

from jobwatt.model import NS_PER_S, Failure

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

NAME = "nvml"

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND = 1, 2, 3, 4, 6
DRIVER_NOT_LOADED, TIMEOUT, NO_LIBRARY, GPU_IS_LOST, RESET_REQUIRED = 9, 10, 12, 15, 16
VERSION_MISMATCH, GPU_NOT_FOUND = 18, 28

# Not there, and not going to be: NOT_SUPPORTED, FUNCTION_NOT_FOUND (an older driver),
# ARGUMENT_VERSION_MISMATCH (an older structure), DEPRECATED.
_NEVER = frozenset({NOT_SUPPORTED, 13, 25, 26})
# Profiling counters in the hands of another: NO_PERMISSION, IN_USE, INSUFFICIENT_RESOURCES.
_CONFLICTS = (NO_PERMISSION, 19, 23)
_HELD = object()
_LOST = frozenset({GPU_IS_LOST, RESET_REQUIRED, GPU_NOT_FOUND})
_GONE = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED, NO_LIBRARY, VERSION_MISMATCH})

_REASONS = {
    UNINITIALIZED: "uninitialized", INVALID_ARGUMENT: "invalid_argument", NOT_SUPPORTED: "not_supported",
    NO_PERMISSION: "permission", NOT_FOUND: "not_found", 7: "insufficient_size", 8: "insufficient_power",
    DRIVER_NOT_LOADED: "driver_not_loaded", TIMEOUT: "timeout", 11: "irq_issue", NO_LIBRARY: "no_library",
    14: "corrupted_inforom", GPU_IS_LOST: "gpu_is_lost", RESET_REQUIRED: "gpu_is_lost",
    17: "operating_system", VERSION_MISMATCH: "lib_rm_version_mismatch", 19: "in_use", 20: "memory",
    21: "no_data", 23: "insufficient_resources", GPU_NOT_FOUND: "gpu_is_lost", 29: "invalid_state",
}  # fmt: skip

_TEXTS = {
    UNINITIALIZED: "the driver connection was closed; it is opened again by itself",
    NO_PERMISSION: "permission denied: run as root or let this user open /dev/nvidiactl and /dev/nvidiaN",
    DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded: modprobe nvidia, then see dmesg",
    NO_LIBRARY: "libnvidia-ml.so.1 is not found",
    GPU_IS_LOST: "the GPU has fallen off the bus: see dmesg for its XID; reset it or reboot the node",
    RESET_REQUIRED: "the GPU needs a reset: release the GPUs, then nvidia-smi --gpu-reset -i INDEX",
    VERSION_MISMATCH: "the driver's library and kernel module differ in version: reload the module or reboot",
    GPU_NOT_FOUND: "the GPU is no longer there: see dmesg and lspci",
}  # fmt: skip

_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


class GpuLostError(Exception):
    """A GPU does not answer any more; ``code`` says how."""

    def __init__(self, code: int) -> None:
        super().__init__(explain(code))
        self.code = code


class DriverGoneError(Exception):
    """No GPU can be asked until the library is opened anew."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message or explain(code))
        self.code = code


class BackOff:
    """When to try again: after 1, 2, 4 ... s, at most a minute, on the clock that it is given."""

    __slots__ = ("_due_ns", "_wait_ns")

    def __init__(self) -> None:
        self._due_ns = self._wait_ns = 0

    def due(self, now_ns: int) -> bool:
        """Whether it is time to try."""
        return now_ns >= self._due_ns

    def fail(self, now_ns: int) -> None:
        """A try has failed (the first or another): wait twice as long as before."""
        self._wait_ns = min(self._wait_ns * 2, 60 * NS_PER_S) or NS_PER_S
        self._due_ns = now_ns + self._wait_ns

    def succeed(self) -> None:
        """All is well: the next failure begins at 1 s again."""
        self._due_ns = self._wait_ns = 0


class Calls:
    """
    The calls concerning one device, or none (``device`` is "": then no code means a lost GPU).

    Attributes:
        unsupported: what it has once said it cannot do; never asked again.
        failures: what went wrong since they were last taken.
    """

    __slots__ = ("_api", "_error", "_label", "device", "failures", "unsupported")

    def __init__(self, api: Any, device: str, label: str) -> None:
        self._api, self._error = api, api.NVMLError
        self.device, self._label = device, label
        self.unsupported: set[str] = set()
        self.failures: list[Failure] = []

    def ask(
        self, name: str, *args: Any, key: str = "", absent: tuple[int, ...] = (), empty: Any = None
    ) -> Any:
        """
        Call ``name``; None where it is unsupported or fails.

        ``key`` tells uses of one function apart that may be supported one by one. Codes in
        ``absent`` are an ordinary "there is none", answered with ``empty``.
        """
        if (key or name) in self.unsupported:
            return None
        function = getattr(self._api, name, None)
        if function is None:  # an older nvidia-ml-py
            self.unsupported.add(key or name)
            return None
        try:
            return function(*args)
        except self._error as err:
            if err.value in absent:
                return empty
            self.refuse(name, err.value, key)
            return None

    def ask_first(self, names: tuple[str, ...], *args: Any) -> Any:
        """Ask the first of several functions that is supported (newest first)."""
        for name in names:
            value = self.ask(name, *args)
            if value is not None or name not in self.unsupported:
                return value
        return None

    def ask_optional(self, name: str, *args: Any) -> Any:
        """Call what somebody else may be holding: a conflict means, quietly, not supported."""
        value = self.ask(name, *args, absent=_CONFLICTS, empty=_HELD)
        if value is not _HELD:
            return value
        self.unsupported.add(name)
        return None

    def text(self, name: str, *args: Any) -> str | None:
        """A string of the driver: undecodable bytes replaced, control characters dropped."""
        function = getattr(self._api, name)
        raw = getattr(function, "__wrapped__", function)  # pynvml's own decoding is strict
        try:
            value = raw(*args)
        except self._error as err:
            self.refuse(name, err.value)
            return None
        decoded = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        return "".join(c for c in decoded if c.isprintable())

    def fields(self, handle: Any, wanted: Iterable[int]) -> dict[int, int]:
        """
        Field values in one call, by id. Each element has an outcome of its own: what is not
        supported is left out of later calls, what fails is missing and said.
        """
        ids = [i for i in wanted if f"field {i}" not in self.unsupported]
        values = self.ask("nvmlDeviceGetFieldValues", handle, ids) if ids else None
        found = {}
        for field_id, item in zip(ids, values or (), strict=False):
            code = item.nvmlReturn
            if code:
                self.refuse(f"field {field_id}", code)
            elif item.valueType < len(_VALUE_MEMBERS):
                value = getattr(item.value, _VALUE_MEMBERS[item.valueType])
                if (
                    abs(value) < 1 << 64
                ):  # one of the members is a double: NaN and the like are left out
                    found[field_id] = int(value)
        return found

    def refuse(self, name: str, code: int, key: str = "") -> None:
        """Note that ``name`` returned ``code``, or raise where it concerns more than this call."""
        if code in _LOST and self.device:
            raise GpuLostError(code)
        if code in _GONE:
            raise DriverGoneError(code)
        if code in _NEVER:
            self.unsupported.add(key or name)
            return
        message = f"{self._label}: {name}: {explain(code)}"
        self.failures.append(Failure(NAME, reason(code), message, self.device))

    def take_failures(self) -> list[Failure]:
        """The failures since the last time, which are forgotten here."""
        taken, self.failures = self.failures, []
        return taken


def reason(code: int) -> str:
    """A code as a label: one of a closed set of words."""
    return _REASONS.get(code, "nvml_error")


def explain(code: int) -> str:
    """A code for people, with the mend where one is known."""
    return _TEXTS.get(code) or f"NVML error {code} ({reason(code)})"


def open_library(procfs: Path) -> Any:
    """
    Load libnvidia-ml through pynvml and connect to the driver.

    Raises:
        DriverGoneError: with the reason and its mend.
    """
    try:
        import pynvml  # noqa: PLC0415 - loaded only where GPUs are measured
    except ImportError as err:
        raise DriverGoneError(
            NO_LIBRARY, "module pynvml is missing: pip install nvidia-ml-py"
        ) from err
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as err:
        if err.value == VERSION_MISMATCH:
            unload_library(pynvml)
        raise DriverGoneError(err.value, _open_message(err.value, procfs)) from err
    return pynvml


def _open_message(code: int, procfs: Path) -> str:
    loaded = (procfs / "driver/nvidia/version").exists()
    if code == NO_LIBRARY and loaded:
        return (
            "the NVIDIA driver is loaded but libnvidia-ml.so.1 is not found: install the driver's "
            "user libraries (Debian: libnvidia-ml1) or mount them into the container"
        )
    if code == NO_LIBRARY:
        return (
            "no NVIDIA driver on this node (no libnvidia-ml.so.1); --no-source.nvml silences this"
        )
    return f"nvmlInit: {explain(code)}"


def close_library(api: Any) -> None:
    """Let go of the driver. A driver that is gone already cannot refuse."""
    try:
        api.nvmlShutdown()
    except api.NVMLError as err:
        log.debug("nvmlShutdown: %s", explain(err.value))


def unload_library(api: Any) -> None:
    """
    Make the next opening load the library's file again.

    After an upgrade of the driver under a running process the old library is still mapped, and
    would refuse the new kernel module for ever; pynvml itself never unloads it.
    """
    library = getattr(api, "nvmlLib", None)
    if library is None:
        return
    getattr(api, "_nvmlGetFunctionPointer_cache", {}).clear()
    api.nvmlLib = None
    _ctypes.dlclose(library._handle)  # noqa: SLF001 - ctypes has no public way to unload
