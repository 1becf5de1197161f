"""Devices and other hosts: wattmeters, BMCs, another jobwatt's page, NVIDIA's driver, HTTP answers."""

from __future__ import annotations

import json
import math
import socket
import struct
from types import SimpleNamespace
from typing import Any

from fuzz.base import (
    DATA,
    count,
    escaped,
    figure,
    files,
    hold,
    joined,
    line,
    parts,
    place,
    put,
    shown,
    target,
)  # fmt: skip
from jobwatt.central.grid import fetch
from jobwatt.central.grid.intensity import GridError
from jobwatt.model import NS_PER_S
from jobwatt.sources import (
    httpget,
    ipmi_grammars,
    nvml,
    nvml_mig,
    redfish_power,
    redfish_tree,
    redfish_url,
    remote,
    remote_page,
    secrets,
)  # fmt: skip
from jobwatt.sources.wattmeter_energy import Meter, Port
from jobwatt.sources.wattmeter_frames import Frames

# --- wattmeters -----------------------------------------------------------------------------------

_OLD = b"1,2,1745428511.5,OK,100.5,,20\n1,2,1745428512.5,OK,101,3,-0.1\n1,2,1745428513.5,KO,1,2,3\n"


def _rows() -> list[bytes]:
    recorded = (DATA / "omegawatt_output.csv").read_bytes()
    return [recorded[:600], recorded[:2000], _OLD]


@target("wattmeter.frames", _rows, share=2.0)
def frames(data: bytes) -> None:
    ports = ("0", "1", "6")
    whole, pieces = Frames(ports), Frames(ports)
    at_once = whole.feed(data)
    size = 1 + len(data) % 97
    cut = [frame for at in range(0, len(data), size) for frame in pieces.feed(data[at : at + size])]
    hold(cut == at_once and whole.known == pieces.known, "rows depend on where the bytes were cut")
    meter = Meter({port: Port() for port in ports})
    told: dict[str, Any] = {}
    for number, frame in enumerate(at_once):
        arrival_ns = 10**15 + number * NS_PER_S
        for value in frame.power_uw.values():
            count(value, most=10**14)
        meter.add(frame.t_ns, frame.power_uw, arrival_ns)
        for port, state in meter.state().items():
            before = told.get(port)
            hold(state.t_ns <= arrival_ns, "a reading of the future")
            hold(before is None or state.t_ns >= before.t_ns, "time that goes back")
            hold(before is None or state.energy_uj >= before.energy_uj, "energy that goes back")
            told[port] = state


# --- BMCs -----------------------------------------------------------------------------------------

_TOOLS = ("ipmitool", "ipmi-dcmi", "ipmiutil")


@target("ipmi.outputs", files("ipmi/*.txt"), share=1.5)
def outputs(data: bytes) -> None:
    said = data.decode("utf-8", "replace")
    for tool in _TOOLS:
        for found in (
            ipmi_grammars.parse_power(tool, said),
            ipmi_grammars.complaint(tool, 1, said),
        ):
            if isinstance(found, int):
                hold(0 < found < 0xFFFF, f"{found} W")
            else:
                shown(found.reason, 32)
                shown(found.what, 300)


def _mockups() -> list[bytes]:
    """Trees as documents: path -> resource."""
    found = [path.read_bytes() for path in sorted((DATA / "redfish").glob("*.json"))]
    base = DATA / "redfish" / "public-rackmount1"
    tree = {}
    for path in base.rglob("index.json"):
        where = path.parent.relative_to(base).as_posix()
        tree["/redfish/v1/" + ("" if where == "." else where)] = json.loads(path.read_text())
    return [*found, json.dumps(tree).encode()]


@target("redfish.tree", _mockups, redfish_tree.UnclearError, json=True, max_len=16384, share=0.6)
def tree(data: bytes) -> None:
    try:
        resources = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(resources, dict):
        return
    resources = resources.get("resources", resources)
    asked = []

    def ask(path: str) -> dict[str, Any] | None:
        asked.append(path)
        hold(
            path.startswith("/redfish/") and len(path) < 500 and ".." not in path,
            f"asks for {path!r:.100}",
        )
        found = (
            resources.get(path, resources.get(path.rstrip("/")))
            if isinstance(resources, dict)
            else None
        )
        return found if isinstance(found, dict) else None

    for start in ("", "/redfish/v1/Chassis/1U"):
        for place_ in redfish_tree.places(ask, start):
            value = place_.figure([ask(path) for path in place_.paths])
            count(value, least=1, most=32 * 10**11)
    hold(len(asked) < 6000, f"{len(asked)} questions")
    list(redfish_power.message_ids(resources))


@target(
    "redfish.url",
    [
        b"https://bmc1",
        b"https://10.0.0.1:8443/redfish/v1/Systems/1",
        b"https://[fe80::1%25eth0]/redfish/v1/Chassis/Self",
    ],
    ValueError,
    share=1.5,
)
def url(data: bytes) -> None:
    base, start = redfish_url.parse_url(escaped(data))
    hold(base.startswith("https://") and base.isascii() and base.isprintable(), f"{base!r}")
    hold("@" not in base and (start == "" or start.startswith("/redfish/v1/")), f"{start!r}")


# --- another page ---------------------------------------------------------------------------------

_PAGE = b"""# TYPE jobwatt_meter_energy_joules_total counter
jobwatt_meter_energy_joules_total{source="wattmeter",meter="1",node="gpu01"} 1234.5
jobwatt_meter_energy_joules_total{source="wattmeter",meter="10",node="gpu01"} 7.000001
jobwatt_meter_power_watts{source="wattmeter",meter="1",node="gpu01"} 250.5
jobwatt_meter_power_watts{source="wattmeter",meter="10",node="gpu01"} 0
jobwatt_meter_reading_timestamp_seconds{source="wattmeter",meter="1",node="gpu01"} 1700000000.123
jobwatt_meter_reading_timestamp_seconds{source="wattmeter",meter="10",node="gpu01"} 1700000000
jobwatt_meter_up{source="wattmeter",meter="1",node="gpu01"} 1
jobwatt_meter_up{source="wattmeter",meter="10",node="gpu01"} 1
"""
_DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"


@target(
    "remote.page",
    [joined(_DATE, _PAGE), joined("", _PAGE.replace(b"gpu01", b"gpu01.example.org").replace(b"wattmeter", b"bmc"))],
    # what Remote._look takes for a page that is none
    ValueError, LookupError, ArithmeticError, remote_page.SeveralNodesError,
    share=2.0,
)  # fmt: skip
def page(data: bytes) -> None:
    date, body = parts(data, 2)
    found = remote_page.meters(body, "gpu01")
    for of_source in found.values():
        shown(of_source.name, 300 * 65)
        for meter in of_source.meters.values():
            count(meter.energy_uj)
            count(meter.power_uw, most=remote_page.MOST_UW)
            figure(meter.read_s, most=1e10)
    _take(found, date, body)


def _take(found: Any, date: bytes, body: bytes) -> None:
    """The rest of Remote._look, which may raise nothing at all."""
    try:
        there_ns = remote._there_ns(httpget.Page(body, date.decode("latin-1")))
        track = remote.Track(5 * NS_PER_S)
        if found:
            for arrival_ns in (10**15, 10**15 + 5 * NS_PER_S):
                for reading in track.add(found, there_ns, arrival_ns).readings:
                    count(reading.value)
                    hold(reading.t_ns <= arrival_ns, "a reading of the future")
    except (ValueError, LookupError, ArithmeticError) as err:
        raise AssertionError(f"{type(err).__name__} where nothing may be raised") from err


@target("http.date", [_DATE, b"", b"Tue, 14 Nov 2023 22:13:20 -0000", b"120"], share=1.5)
def date(data: bytes) -> None:
    said = data.decode("latin-1")
    hold(isinstance(remote._there_ns(httpget.Page(b"", said)), int), "no time")
    figure(fetch._retry_after_s(said, 1.7e9))


_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx",
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"a": 1}',
]


def _answering(data: bytes) -> socket.socket:
    ours, theirs = socket.socketpair()
    theirs.sendall(data)
    theirs.shutdown(socket.SHUT_WR)
    _open.append(theirs)
    return ours


_open: list[socket.socket] = []


@target("http.answer", _ANSWERS, httpget.GetError, share=0.3)
def answer(data: bytes) -> None:
    real = httpget.connect
    httpget.connect = lambda *_: _answering(data)
    try:
        getter = httpget.Getter(lambda: None, 5.0, 1 << 16)  # type: ignore[arg-type, return-value]
        found = getter.get("http://host.example/metrics", {})
        hold(len(found.body) <= 1 << 16, "more than it may be")
    except httpget.GetError as err:
        line(err)
        raise
    finally:
        httpget.connect = real
        while _open:
            _open.pop().close()


@target("http.json_answer", _ANSWERS, share=0.3)
def json_answer(data: bytes) -> None:
    real = fetch.connect
    fetch.connect = lambda *_: _answering(data)
    try:
        if not _fetchers:
            _fetchers.append(fetch.Fetcher(5.0))  # reads all of the system's certificates
        _fetchers[0]("http://host.example/x")
    except GridError as err:
        line(err)
    finally:
        fetch.connect = real
        while _open:
            _open.pop().close()


_fetchers: list[Any] = []


# --- NVIDIA's driver ------------------------------------------------------------------------------


class _NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


class _Driver:
    """An NVML whose every answer comes out of the input; of the types that the real one has."""

    NVMLError = _NvmlError
    NVML_GPM_METRICS_GET_VERSION = 1
    nvmlLib = None  # noqa: N815  pynvml's name: nothing is loaded

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def _take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        self._at += size
        return found.ljust(size, b"\0")

    def _number(self, bits: int) -> int:
        return int.from_bytes(self._take(bits // 8), "little")

    def _double(self) -> float:
        return struct.unpack("<d", self._take(8))[0]

    def _text(self) -> bytes:
        return self._take(self._number(8) % 96).partition(b"\0")[0]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*args: Any) -> Any:
            code = self._number(8)
            if code & 0x80:
                raise _NvmlError(code & 0x3F or 999)
            return self._answer(name, args)

        return call

    def c_nvmlGpmMetricsGet_t(self) -> Any:  # noqa: N802  pynvml's name
        items = [
            SimpleNamespace(value=self._double(), nvmlReturn=self._number(8) & 1, metricId=0)
            for _ in range(8)
        ]
        return SimpleNamespace(metrics=items)

    def _answer(self, name: str, args: Any) -> Any:  # noqa: C901, PLR0911  what each call gives
        if name in {"nvmlInit", "nvmlShutdown", "nvmlGpmSampleFree", "nvmlEventSetFree"}:
            return None
        if name == "nvmlDeviceGetCount":
            return self._number(8) % 4
        if name == "nvmlDeviceGetMaxMigDeviceCount":
            return self._number(8) % 8
        if name in {
            "nvmlDeviceGetUUID",
            "nvmlDeviceGetName",
            "nvmlSystemGetDriverVersion",
            "nvmlSystemGetNVMLVersion",
        }:
            return self._text()
        if name == "nvmlDeviceGetFieldValues":
            return [self._field() for _ in args[1]]
        if name == "nvmlDeviceGetMigMode":
            return [self._number(8) & 1, 0]
        if name == "nvmlDeviceGetPowerManagementLimitConstraints":
            return [self._number(32), self._number(32)]
        if name.endswith(("RunningProcesses_v3", "ProcessUtilization")):
            return [self._struct() for _ in range(self._number(8) % 4)]
        if name == "nvmlDeviceGetTotalEnergyConsumption":
            return self._number(64)
        if name in _STRUCTS:
            return self._struct()
        return self._number(32)

    def _field(self) -> Any:
        value = SimpleNamespace(
            dVal=self._double(), uiVal=self._number(32), ulVal=self._number(64), ullVal=self._number(64),
            sllVal=-self._number(32), siVal=-self._number(16), usVal=self._number(16),
        )  # fmt: skip
        return SimpleNamespace(
            nvmlReturn=self._number(8) % 4, valueType=self._number(8) % 9, value=value
        )

    def _struct(self) -> Any:
        return SimpleNamespace(
            used=self._number(64), total=self._number(64), gpu=self._number(32), memory=self._number(32),
            domain=self._number(32), bus=self._number(32), device=self._number(32), pid=self._number(32),
            usedGpuMemory=self._number(64), timeStamp=self._number(64), smUtil=self._number(32),
            isSupportedDevice=self._number(8) & 1, gpuInstanceSliceCount=self._number(8),
            computeInstanceSliceCount=self._number(8), memorySizeMB=self._number(64), eventData=self._number(64),
        )  # fmt: skip


_STRUCTS = frozenset({
    "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPciInfo_v3", "nvmlGpmQueryDeviceSupport",
    "nvmlDeviceGetAttributes_v2", "nvmlEventSetWait_v2",
})  # fmt: skip


@target(
    "nvml.answers", [bytes(4000), bytes(range(128)) * 30, b"\1" * 4000], max_len=8192, share=0.5
)
def nvml_answers(data: bytes) -> None:
    driver, real, now = _Driver(data), nvml.open_library, [10**12]
    nvml.open_library = lambda _: driver
    try:
        source = nvml.NvmlSource(procfs=place(), clock=lambda: now[0])
        for full in (True, False, True):
            now[0] += 11 * NS_PER_S
            _check(source.read(full=full))
        source.close()
    finally:
        nvml.open_library = real


def _check(result: Any) -> None:
    for sample in (*result.samples, *result.events):
        hold(math.isfinite(sample.value), f"{sample.metric} is {sample.value}")
        hold(
            sample.value >= 0 or not sample.metric.endswith("_ratio"),
            f"{sample.metric} is {sample.value}",
        )
        for label in sample.labels:
            shown(label)
    for state in result.gpus:
        shown(state.uuid, 128)
        shown(state.mig_profile, 128)
        count(state.sm_permille, most=1000)
    for failure in result.failures:
        line(failure.message)
    for reading in result.readings:
        hold(isinstance(reading.value, int), "no number")


@target("nvml.profile", [struct.pack("<BBQQ", 1, 1, 4864, 40 << 30)], share=0.5)
def nvml_profile(data: bytes) -> None:
    numbers = struct.unpack("<BBQQ", data[:18].ljust(18, b"\0"))
    shown(nvml_mig.profile_name(*numbers), 64)


# --- secrets --------------------------------------------------------------------------------------


@target("secrets.file", [b"admin:s3cret-of-the-bmc\n", b"t0ken" * 20, b"a:b:c\r\n"], share=0.5)
def secret(data: bytes) -> None:
    path = put("secret", data)
    for read in (secrets.read_credentials, lambda p: secrets.read_line(p, "token file", "TOKEN")):
        try:
            found = read(path)
        except ValueError as err:
            line(err)
            words = data.decode("utf-8", "replace").split()
            hold(
                not any(len(word) > 12 and word in str(err) for word in words),
                "a secret in a message",
            )
        else:
            for text in (found,) if isinstance(found, str) else found:
                shown(text, 16 << 10)
