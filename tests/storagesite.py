"""The files of interop/storage, and the programs that they are for, for as long as a test lasts."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from alertbench import bench_site

from jobwatt.alerts import rules
from prom import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scalenodes import Nodes

STORAGE = Path(__file__).parents[1] / "interop/storage"


# --- files -------------------------------------------------------------------------------------------------


def conf(path: str) -> Any:
    """A file of interop/storage, parsed."""
    return yaml.safe_load((STORAGE / path).read_text(encoding="utf-8"))


def texts() -> dict[str, str]:
    """Every file of rules, for a site that has all settings."""
    return rules.texts(bench_site())


def command(unit: str) -> list[str]:
    """The command line of a unit of interop/storage, divided as systemd and a shell do it: quotes around words go."""
    lines = (STORAGE / unit).read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    found = re.search(r"ExecStart=((?:.*\\\n)*.*)", text)
    assert found is not None, unit
    return shlex.split(found[1].replace("\\\n", " "))


def quick_rules(folder: Path, interval: str, *without: str) -> Path:
    """The rules, every so often; without these keys; and an alert that always fires."""
    folder.mkdir(parents=True, exist_ok=True)
    watch = {"alert": "Watch", "expr": "vector(1)", "labels": {"severity": "none"}}
    documents = {name: yaml.safe_load(text) for name, text in texts().items()}
    documents["watch.yaml"] = {"groups": [{"name": "watch", "rules": [watch]}]}
    for name, document in documents.items():
        for group in document["groups"]:
            group["interval"] = interval
            for rule in group["rules"]:
                for key in without:
                    rule.pop(key, None)
        (folder / name).write_text(yaml.safe_dump(document), encoding="utf-8")
    return folder


def quickened(config: Any, nodes: Nodes, port: int) -> Any:
    """The configuration with these targets, every second."""
    config["global"] |= {
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "evaluation_interval": "2s",
    }
    (job,) = config["scrape_configs"]
    del job["file_sd_configs"]
    job["static_configs"] = [
        {"targets": [f"127.0.0.1:{port}"],
         "labels": {"cluster": "c", "instance": node, "__metrics_path__": f"/{node}"}}
        for node in nodes.all
    ]  # fmt: skip
    for sender in config.get("remote_write", ()):
        sender["queue_config"] = {"batch_send_deadline": "500ms"}
    return config


# --- programs ----------------------------------------------------------------------------------------------


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, patience_s: float = 30) -> None:
    """Until the address answers."""
    until = time.monotonic() + patience_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=2).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        else:
            return


@contextmanager
def running(argv: list[str], ready: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program for as long as this lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{Path(argv[0]).name}-{free_port()}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(ready, process, path)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def prometheus(folder: Path, config: Any, *flags: str) -> Iterator[str]:
    """A Prometheus with this configuration and these flags; gives its address."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    url = f"http://127.0.0.1:{free_port()}"
    argv = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address={url[7:]}", "--log.level=warn", *flags]  # fmt: skip
    with running(argv, f"{url}/-/ready", folder):
        yield url


@contextmanager
def alertmanager(folder: Path) -> Iterator[str]:
    """An Alertmanager that tells nobody; gives its address."""
    folder.mkdir(parents=True)
    (folder / "am.yml").write_text('{"route": {"receiver": "x"}, "receivers": [{"name": "x"}]}')
    url = f"http://127.0.0.1:{free_port()}"
    argv = ["prometheus-alertmanager", f"--config.file={folder}/am.yml", f"--storage.path={folder}/data",
            f"--web.listen-address={url[7:]}", "--cluster.listen-address="]  # fmt: skip
    with running(argv, f"{url}/-/ready", folder):
        yield url


def alerts(url: str, name: str) -> list[dict[str, str]]:
    """Labels of each alert of this name that Alertmanager has."""
    with urllib.request.urlopen(f"{url}/api/v2/alerts", timeout=30) as answer:
        return [a["labels"] for a in json.load(answer) if a["labels"]["alertname"] == name]


def eventually(what: Callable[[], Any], patience_s: float = 60) -> Any:
    """What it gives as soon as that is something."""
    until = time.monotonic() + patience_s
    while not (found := what()):
        assert time.monotonic() < until
        time.sleep(0.5)
    return found


def missing(*programs: str) -> str:
    """Names of those that are not on this machine."""
    return ", ".join(program for program in programs if shutil.which(program) is None)


def unhealthy(url: str, tenant: str = "") -> list[Any]:
    """The rules of a ruler (Mimir's: of a tenant) that fail, or were never evaluated; it has some."""
    request = urllib.request.Request(f"{url}/api/v1/rules", headers={"X-Scope-OrgID": tenant})
    with urllib.request.urlopen(request, timeout=30) as answer:
        groups = json.load(answer)["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    assert found
    return [rule for rule in found if rule["health"] != "ok"]
