"""
Users' names are personal data: a page shows them, a pseudonym of each, or none.

A pseudonym is an HMAC-SHA256 of the name (RFC 2104) under a key that every node of a cluster shares: the
same user is the same pseudonym everywhere, and who has not the key can neither go back nor try names
(a plain hash of 99 known names is undone in a moment). Whoever has the key can: for the law a
pseudonym is personal data still (GDPR, recital 26), only better kept. Pure.
"""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Job, JobMeta, Snapshot

NAME, HASH, DROP = "name", "hash", "drop"
# As long as the hash itself: RFC 2104, section 3 asks for no less. In characters of a line of text.
KEY_CHARS = 32
# 13 characters of 5 bits: two of a million users share a pseudonym once in 10^8 clusters (birthday bound).
_CHARS = 13


@dataclass(frozen=True, slots=True)
class Names:
    """
    How users are shown.

    Attributes:
        mode: ``name``, ``hash`` or ``drop``.
        key: what pseudonyms are made with.
    """

    mode: str = NAME
    key: bytes = b""

    @property
    def shows_uids(self) -> bool:
        """Whether a uid may be shown: it is as good as the name."""
        return self.mode == NAME

    def user(self, name: str) -> str:
        """What stands for a user; "" stays "" (nobody is known yet)."""
        if self.mode == NAME or not name:
            return name
        return pseudonym(self.key, name) if self.mode == HASH else ""

    def masked(self, meta: JobMeta) -> JobMeta:
        """A job without what tells who its user is: uid and job name go with the user's name."""
        if self.mode == NAME:
            return meta
        return replace(meta, user=self.user(meta.user), uid=None, name="")


def masked(snapshot: Snapshot, names: Names) -> Snapshot:
    """A snapshot to be given away: a recording is mailed around more freely than a page."""
    if names.mode == NAME:
        return snapshot

    def bare(jobs: tuple[Job, ...]) -> tuple[Job, ...]:
        return tuple(
            replace(job, usage=replace(job.usage, uid=None), meta=names.masked(job.meta))
            for job in jobs
        )

    return replace(
        snapshot,
        jobs=bare(snapshot.jobs),
        ended=bare(snapshot.ended),
        late=bare(snapshot.late),
    )


def pseudonym(key: bytes, name: str) -> str:
    """``u`` and 13 characters of a-z, 2-7: fit for a label, a file's name and the local part of an address."""
    digest = hmac.digest(key, name.encode(), "sha256")
    return "u" + base64.b32encode(digest)[:_CHARS].decode().lower()
