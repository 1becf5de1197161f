"""
Everything that a release consists of, made from this checkout into an empty directory (docs/release.md).

    packaging/release.py [--dirty] [--check] [OUTDIR]          default: dist/VERSION

The wheel, the sdist, the Debian package, the Helm chart, the locked requirements, a bill of materials and the sums of
all of them. The same commit gives the same bytes: times are the commit's, or SOURCE_DATE_EPOCH's. A checkout with
changes that are not committed is refused unless --dirty says that this is no release. --check makes everything anew
elsewhere and compares it with what OUTDIR has.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import sbom

ROOT = Path(__file__).resolve().parent.parent
LOCK = "packaging/requirements.txt"


class ReleaseError(Exception):
    """Why there is no release, in one line."""


def run(*argv: str | Path, **env: str) -> str:
    """Run a command in the checkout; its output, or a ReleaseError with the end of it."""
    done = subprocess.run(
        [str(arg) for arg in argv], cwd=ROOT, env={**os.environ, **env},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ReleaseError(f"{argv[0]} failed:\n{(done.stdout + done.stderr)[-4000:]}")
    return done.stdout


def version() -> str:
    """The project's version."""
    text = (ROOT / "exporter/jobwatt/__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        raise ReleaseError("exporter/jobwatt/__init__.py has no __version__")
    return found[1]


def export(to: Path) -> None:
    """Copy what belongs to the project, and nothing that lies around in it."""
    for name in run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split(
        "\0"
    ):
        source = ROOT / name
        if name and source.is_file():  # one that was deleted is listed until that is committed
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to / name)


def chart(tree: Path, out: Path, epoch: int) -> None:
    """Pack the chart as `helm package` does, less the times of its files."""
    top = tree / "helm/jobwatt"
    ignored = [
        line.strip().rstrip("/")
        for line in (top / ".helmignore").read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(top.rglob("*")):
            name = path.relative_to(top)
            if path.is_dir() or any(fnmatch(p, i) for p in name.parts for i in ignored):
                continue
            entry = tarfile.TarInfo(f"jobwatt/{name}")
            entry.size, entry.mtime, entry.mode = path.stat().st_size, epoch, 0o644
            tar.addfile(entry, io.BytesIO(path.read_bytes()))
    out.write_bytes(gzip.compress(packed.getvalue(), mtime=epoch))


def site_of(deb: Path, work: Path) -> Path:
    """Unpack the package: where the libraries lie that it carries."""
    run("dpkg-deb", "--extract", deb, work)
    return next(work.glob("usr/lib/jobwatt/lib/python*/site-packages"))


def build(out: Path, epoch: int) -> None:
    """Make everything in ``out``, an empty directory."""
    now = {"SOURCE_DATE_EPOCH": str(epoch)}
    number = version()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        export(tree)
        hatch = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--target", "sdist"]  # fmt: skip
        run("env", "-C", tree, *hatch, "--directory", out, **now)
        wheel = next(out.glob("*.whl"))
        run(ROOT / "packaging/build-deb.sh", out, JOBWATT_WHEEL=str(wheel), **now)
        chart(tree, out / f"jobwatt-{number}.tgz", epoch)
        lock = out / f"jobwatt-{number}-requirements.txt"
        shutil.copy(tree / LOCK, lock)
        site = site_of(next(out.glob("*.deb")), Path(scratch) / "deb")
        bill = sbom.make(wheel, lock, site, epoch)
    (out / f"jobwatt-{number}.cdx.json").write_text(bill, encoding="utf-8")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in sorted(out.iterdir())]  # fmt: skip
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def make(out: Path, *, dirty: bool) -> None:
    """Make the release in ``out``."""
    changed = run("git", "status", "--porcelain")
    if changed and not dirty:
        raise ReleaseError(f"not committed, so no release (--dirty takes it):\n{changed}")
    if out.exists() and any(out.iterdir()):
        raise ReleaseError(f"{out} is not empty: a release is made once")
    out.mkdir(parents=True, exist_ok=True)
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct")
    build(out, int(epoch))


def check(out: Path, *, dirty: bool) -> None:
    """Make it anew elsewhere; a ReleaseError where the bytes are others."""
    with tempfile.TemporaryDirectory() as again:
        make(Path(again) / "release", dirty=dirty)
        sums = (Path(again) / "release/SHA256SUMS").read_text(encoding="utf-8")
    differ = set((out / "SHA256SUMS").read_text(encoding="utf-8").splitlines()) ^ set(sums.splitlines())  # fmt: skip
    if differ:
        raise ReleaseError("made anew, other bytes: " + ", ".join(sorted({d[66:] for d in differ})))


def main() -> int:
    """Make a release, or check one; 1 where that failed, with the reason."""
    parser = argparse.ArgumentParser(description="Everything that a release consists of")
    parser.add_argument("--dirty", action="store_true", help="take changes that are not committed")
    parser.add_argument("--check", action="store_true", help="compare OUTDIR with one made anew")
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "dist" / version())
    args = parser.parse_args()
    out = args.out.resolve()
    try:
        (check if args.check else make)(out, dirty=args.dirty)
    except (ReleaseError, OSError, ValueError) as err:
        sys.stderr.write(f"release: {err}\n")
        return 1
    sys.stdout.write((out / "SHA256SUMS").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
