"""What every test shares: in CI nothing is left out, and a missing tool says which test it keeps away."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

# an example may take its time: what a busy machine makes of it is nobody's fault
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")

_TOOLS = {
    "prometheus": ("prometheus", "promtool"),
    "slurm": ("slurmctld", "slurmd", "sbatch", "munged"),
    "uml": ("linux.uml", "slurmctld"),
    "npm": ("node", "npm"),
}
os.environ["PATH"] += ":/usr/sbin:/sbin"


def pytest_runtest_setup(item):
    for marker, tools in _TOOLS.items():
        if item.get_closest_marker(marker) is None:
            continue
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if marker in {"slurm", "uml"} and os.geteuid() != 0:
            missing.append("root")
        if missing:
            pytest.skip(f"needs {', '.join(missing)}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With CI=true a test that is skipped has failed."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"left out in CI: {call.excinfo.value if call.excinfo else item.name}"
