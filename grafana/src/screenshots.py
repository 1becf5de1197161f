"""
Pictures of the demo: every dashboard, and a mail. ``make screenshots`` writes those of the README.

The demo is started (`jobwatt demo --no-grafana`), waited for until a mail is there, and drawn by the viewer's own
script in a headless Chromium. ``--all`` takes every dashboard in light and dark, 1500 and 1000 pixels wide. Panels with
an error or without data are named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PREVIEW = HERE.parent / "preview"
OUT = HERE.parent / "screenshots"
LIMIT_S = 600
MAIL_LIMIT_S, MORE_MAILS_S = 300, 10
# What the pages are about: a job on GPUs of which all is measured, and who wasted and who used most.
SUBJECTS = {
    "jobid": 'topk(1, sum by (jobid) (jobwatt_job_gpu_energy_joules_total{partition="H100"}))',
    "user": "topk(1, sum by (user) (sum_over_time(jobwatt:user_gpu_idle_energy_joules:rate5m[7d:5m])))",
    "account": "topk(1, sum by (account) (sum_over_time(jobwatt:account_energy_joules:rate5m[7d:5m])))",
}


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that runs: its ready file, and where its page is."""

    ready: dict[str, Any]

    @property
    def page(self) -> str:
        """URL of the page, without the last slash."""
        return f"http://127.0.0.1:{self.ready['page']}"

    def ask(self, expr: str, label: str) -> str:
        """The label's value of the one series that a query gives."""
        query = urllib.parse.urlencode({"query": expr})
        found = self.json(f"/prometheus/api/v1/query?{query}")["data"]["result"]
        if not found:
            raise ValueError(f"the demo's Prometheus has nothing for {expr}")
        return str(found[0]["metric"][label])

    def json(self, path: str) -> Any:
        """What the page answers."""
        with urllib.request.urlopen(self.page + path, timeout=30) as answer:  # noqa: S310  our own
            return json.load(answer)


@contextmanager
def demo(*flags: str) -> Iterator[Demo]:
    """Run the demo; ValueError where it does not come up."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder:
        ready = Path(folder) / "ready.json"
        argv = [sys.executable, "-m", "jobwatt", "demo", f"--ready-file={ready}", *flags]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        try:
            _wait(ready.exists, process, LIMIT_S)
            yield Demo(json.loads(ready.read_text(encoding="utf-8")))
        finally:
            process.terminate()
            process.wait(60)


def _wait(done: Any, process: subprocess.Popen[bytes] | None, limit_s: float) -> None:
    until = time.monotonic() + limit_s
    while not done():
        if process is not None and process.poll() is not None:
            raise ValueError("the demo ended by itself; see above")
        if time.monotonic() > until:
            raise ValueError(f"the demo was not ready within {limit_s:.0f} s")
        time.sleep(0.5)


def shots(one: Demo, names: Sequence[tuple[str, int, str]], out: Path) -> list[dict[str, Any]]:
    """The list that shot.mjs takes: a picture of each dashboard at each width and theme."""
    about = {label: one.ask(expr, label) for label, expr in SUBJECTS.items()}
    about["instance"] = one.ask(
        f'topk(1, last_over_time(jobwatt_job_info{{jobid="{about["jobid"]}"}}[7d]))', "instance"
    )
    found = []
    for board in one.json("/dashboards/index.json"):
        name = board["uid"].removeprefix("jobwatt-")
        for suffix, width, theme in names:
            query = {f"var-{label}": value for label, value in about.items()} | {"theme": theme}
            url = f"{one.page}/d/{board['uid']}?{urllib.parse.urlencode(query)}&kiosk"
            found.append(
                {
                    "url": url,
                    "out": str(out / f"{name}{suffix}.png"),
                    "width": width,
                    "theme": theme,
                }
            )
    return found


def mail_shot(one: Demo, out: Path) -> dict[str, Any]:
    """A mail to a user, as the demo's page shows it."""
    _wait(lambda: _mails(one), None, MAIL_LIMIT_S)
    time.sleep(MORE_MAILS_S)  # they come within moments of each other
    number = max(_mails(one), key=lambda mail: len(mail["text"]))["number"]
    return {
        "url": f"{one.page}/mails/{number}",
        "out": str(out / "mail.png"),
        "width": 1000,
        "theme": "light",
        "plain": True,
    }


def _mails(one: Demo) -> list[dict[str, Any]]:
    return [mail for mail in one.json("/mails.json") if "operators" not in str(mail["to"])]


def draw(wanted: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw the pictures; what shot.mjs says of each."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as list_:
        json.dump(wanted, list_)
        list_.flush()
        done = subprocess.run(
            [shutil.which("node") or "node", "shot.mjs", list_.name],
            cwd=PREVIEW,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> int:
    """Take the pictures; 1 where one shows an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="each in light and dark, at two widths")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--cache", default=str(ROOT / ".cache/demo"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    every = [
        (f"-{theme}-{width}", width, theme) for theme in ("light", "dark") for width in (1500, 1000)
    ]
    with demo("--no-grafana", f"--cache={args.cache}") as one:
        _wait(lambda: one.json("/status.json")["dashboards_ready"], None, LIMIT_S)
        wanted = [mail_shot(one, args.out)]
        wanted += shots(one, every if args.all else [("", 1500, "light")], args.out)
        told = draw(wanted)
    bad = [shot for shot in told if shot["errors"] or shot["problems"]]
    for shot in bad:
        sys.stderr.write(
            f"{shot['out']}: {json.dumps(shot['errors'])} {json.dumps(shot['problems'])}\n"
        )
    sys.stderr.write(f"{len(told)} pictures in {args.out}, {len(bad)} with something to look at\n")
    return 1 if any(shot["errors"] for shot in told) or len(told) < len(wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
