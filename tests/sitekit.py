"""A site's one file as the tests write it, and the one that is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
SHIPPED = REPO / "alerts/site.toml"
MAIL = """
[mail]
smarthost = "smtp.example.org:587"
from = "GPU monitor <gpu@example.org>"
operators = ["ops@example.org"]
domain = "example.org"
"""


@pytest.fixture
def toml(tmp_path):
    """Write a site.toml; returns its path."""

    def write(text, mail=MAIL):
        path = tmp_path / "site.toml"
        path.write_text(mail + text)
        return path

    return write
