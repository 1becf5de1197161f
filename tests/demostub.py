"""
A small stand-in for the demo's simulated cluster: three nodes, each with a job that never uses its GPU.

As a script it writes the past of some nodes, as jobwatt.demo.sim.history does (OUT FROM TO BEGAN NODE...), or is
`jobwatt demo` over these nodes (demo FLAGS).
"""

from __future__ import annotations

import argparse
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jobwatt.demo import options, run, services

NODES = ("gpu01", "gpu02", "gpu03")
STEP_S = 60


def samples(node: str, at: float, began_s: float) -> list[tuple[str, dict[str, str], float]]:
    """What a node shows at a time: name, labels, value."""
    held = at - began_s
    job = {"jobid": f"10{node[-2:]}", "user": "aokondira", "account": "ltci", "partition": "H100"}
    gpu = {"gpu": "0", "uuid": f"GPU-{node}"}
    return [
        ("jobwatt_build_info", {"version": "0"}, 1),
        ("jobwatt_snapshot_timestamp_seconds", {}, at),
        ("jobwatt_node_power_watts", {"component": "gpu"}, 300.0),
        ("jobwatt_node_energy_joules_total", {"component": "gpu"}, 300 * held),
        ("jobwatt_job_info", {**job, "name": "notebook"}, 1),
        ("jobwatt_job_start_time_seconds", job, began_s),
        ("jobwatt_job_power_watts", job, 100.0),
        ("jobwatt_job_gpu_allocated_seconds_total", {**job, **gpu}, held),
        ("jobwatt_job_gpu_idle_seconds_total", {**job, **gpu}, held),
        ("jobwatt_job_gpu_unknown_seconds_total", {**job, **gpu}, 0),
        ("jobwatt_job_gpu_energy_joules_total", {**job, **gpu}, 100 * held),
        ("jobwatt_job_gpu_idle_energy_joules_total", {**job, **gpu}, 100 * held),
        ("jobwatt_job_gpu_utilization_ratio", {**job, **gpu}, 0),
    ]


def line(name: str, labels: dict[str, str], value: float, at: str = "") -> str:
    pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
    return f"{name}{{{pairs}}} {value!r}{at}\n"


def write(out: Path, from_s: int, to_s: int, began_s: int, nodes: list[str]) -> None:
    where = {"cluster": "demo", "job": "jobwatt"}
    with out.open("w") as file:
        for at in range(from_s, to_s, STEP_S):
            for node in nodes:
                for name, labels, value in samples(node, at, began_s):
                    file.write(line(name, {**labels, **where, "instance": node}, value, f" {at}"))
        file.write("# EOF\n")


class Simulation:
    """Takes the place of jobwatt.demo.simulation.Simulation."""

    seed = 1
    nodes = NODES

    def sources(self):
        return [Path(__file__)]

    def writer(self, out, ledgers, *, began_s, end_s, span, nodes):
        for node in nodes:
            (ledgers / f"{node}.db").write_text(f"{span[1]}")
        return [sys.executable, __file__, str(out), *map(str, span), str(began_s), *nodes]

    def live(self, *, began_s, ledgers, host, first_port):
        return Live(began_s, host, first_port)


class Stuck(Simulation):
    def writer(self, out, *_, **__):
        return [sys.executable, "-c", "import time; time.sleep(99)", str(out)]


class Live:
    def __init__(self, began_s: int, host: str, first_port: int) -> None:
        self._servers = [
            self._server(node, began_s, host, first_port + n) for n, node in enumerate(NODES)
        ]

    def start(self) -> dict[str, int]:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        return {node: s.server_address[1] for node, s in zip(NODES, self._servers, strict=True)}

    def stop(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _server(self, node: str, began_s: int, host: str, port: int) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                page = "".join(line(*one) for one in samples(node, time.time(), began_s)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

        return Server((host, port), Handler)


def demo(argv: list[str]) -> int:
    """`jobwatt demo` over this cluster."""
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    parser.add_argument("--stuck", action="store_true", help="the history is never done")
    args = parser.parse_args(argv)
    services.SCRAPE_S = 1  # a test does not wait for a quarter of a minute
    return run.main(options.of(args), Stuck() if args.stuck else Simulation())


if __name__ == "__main__":
    if sys.argv[1] == "demo":
        sys.exit(demo(sys.argv[2:]))
    out, from_s, to_s, began_s, *nodes = sys.argv[1:]
    write(Path(out), int(from_s), int(to_s), int(began_s), nodes)
