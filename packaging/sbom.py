"""
The bill of materials of a release, CycloneDX 1.6 in JSON: jobwatt's wheel, and each library that the packages carry.

Versions and hashes are those of requirements.txt; licences and who needs whom are read where these very versions are
installed. The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from typing import TYPE_CHECKING, NamedTuple

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import (
    ExternalReference,
    ExternalReferenceType,
    HashAlgorithm,
    HashType,
    XsUri,
)
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# What a library says of its licence in words of its own, or in its files alone.
_SAID = {
    "Apache 2.0": "Apache-2.0",  # requests-toolbelt
    "BSD": "BSD-3-Clause",  # nvidia-ml-py: the three clauses stand at the head of pynvml.py
    'BSD 3-clause "New" or "Revised License"': "BSD-3-Clause",  # redfish
}
_IN_FILES = {"requests-unixsocket": "Apache-2.0"}  # its wheel's LICENSE


class Locked(NamedTuple):
    """A library as requirements.txt has it."""

    name: str
    version: str
    hashes: tuple[str, ...]


def locked(text: str) -> list[Locked]:
    """Take a requirements file with hashes apart, which has one requirement a paragraph."""
    found = []
    for block in re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"^\s*#.*$", "", text, flags=re.MULTILINE)):
        head = re.match(r"\s*([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        if head:
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", block))
            found.append(Locked(canonicalize_name(head[1]), head[2], hashes))
    return found


def licence(library: Distribution) -> str:
    """
    The library's licence as an SPDX expression.

    Raises:
        ValueError: it says none that is known here.
    """
    name = canonicalize_name(library.metadata["Name"])
    words = library.metadata.get("License-Expression") or library.metadata.get("License") or ""
    said = _SAID.get(words, words) or _IN_FILES.get(name, "")
    if not re.fullmatch(r"[A-Za-z0-9.()+ -]{2,80}", said) or said == "UNKNOWN":
        raise ValueError(f"{name}: what licence is {words[:80]!r}? say so in packaging/sbom.py")
    return said


def make(wheel: Path, lock: Path, site: Path, epoch: int) -> str:
    """
    Write the bill of ``wheel`` and of what ``lock`` names; ``site`` is where all of it is installed.

    Raises:
        ValueError: a library is installed in another version than ``lock`` says, or says no licence.
    """
    installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions(path=[str(site)])}
    parts = {"jobwatt": _ours(wheel, installed["jobwatt"].version)}
    for one in locked(lock.read_text(encoding="utf-8")):
        library = installed.get(one.name)
        if library is None or library.version != one.version:
            there = library.version if library else "none"
            raise ValueError(f"{one.name}: {lock} has {one.version}, {site} has {there}")
        parts[one.name] = _library(one, licence(library))
    bom = Bom(components=[part for name, part in parts.items() if name != "jobwatt"])
    bom.metadata.component = parts["jobwatt"]
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    sums = f"{_sha256(wheel)} {_sha256(lock)} {epoch}"
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_OID, sums)
    graph = _graph(installed)
    for name, part in parts.items():
        bom.register_dependency(part, [parts[one] for one in sorted(graph.get(name, ()))])
    text = JsonV1Dot6(bom).output_as_string(indent=1) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault:
        raise ValueError(f"not CycloneDX 1.6: {fault}")
    return text


def _ours(wheel: Path, version: str) -> Component:
    return Component(
        type=ComponentType.APPLICATION,
        name="jobwatt",
        version=version,
        bom_ref="jobwatt",
        purl=PackageURL("pypi", name="jobwatt", version=version),
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=_sha256(wheel))],
    )


def _library(one: Locked, said: str) -> Component:
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(f"https://pypi.org/project/{one.name}/{one.version}/#files"),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in one.hashes],
    )
    purl = PackageURL("pypi", name=one.name, version=one.version)
    return Component(
        type=ComponentType.LIBRARY,
        name=one.name,
        version=one.version,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=[LicenseFactory().make_from_string(said)],
        external_references=[files],
    )


def _graph(installed: Mapping[str, Distribution]) -> dict[str, set[str]]:
    """Who needs whom, from jobwatt[bmc] on, with the extras that each is asked for."""
    graph: dict[str, set[str]] = {}
    todo = [("jobwatt", {"bmc"})]
    while todo:
        name, extras = todo.pop()
        needs = list(_needs(installed[name], extras))
        before = graph.setdefault(name, set())
        todo += [(one, more) for one, more in needs if one not in before or more]
        before.update(one for one, _ in needs)
    return graph


def _needs(library: Distribution, extras: set[str]) -> Iterator[tuple[str, set[str]]]:
    for text in library.requires or ():
        wanted = Requirement(text)
        contexts: list[Mapping[str, str]] = [{"extra": extra} for extra in ("", *sorted(extras))]
        if wanted.marker is None or any(wanted.marker.evaluate(dict(c)) for c in contexts):
            yield canonicalize_name(wanted.name), set(wanted.extras)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
