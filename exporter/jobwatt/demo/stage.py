"""What every part of a run is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from .cache import Cache
    from .children import Children
    from .options import Options
    from .ports import Ports
    from .services import Addresses
    from .simulation import Simulation
    from .terminal import Terminal


@dataclass(frozen=True, slots=True)
class Stage:
    """
    One run's surroundings.

    Attributes:
        folder: the run's own, gone when it ends.
        lacking: a line for each program that is not on this machine.
    """

    options: Options
    simulation: Simulation
    at: Addresses
    ports: Ports
    cache: Cache
    folder: Path
    children: Children
    terminal: Terminal
    stop: threading.Event
    lacking: tuple[str, ...] = ()
