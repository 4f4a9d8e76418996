"""Named places where a test may make a fault happen; they do nothing unless one was armed."""

from __future__ import annotations

from collections.abc import Callable

_armed: dict[str, Callable[[], None]] = {}


def fault_point(name: str) -> None:
    """Run the fault armed under that name, if any."""
    if _armed and name in _armed:
        _armed[name]()


def arm(name: str, fault: Callable[[], None]) -> None:
    """Let `fault` run each time that the named place is passed."""
    _armed[name] = fault


def disarm() -> None:
    """Forget every armed fault."""
    _armed.clear()
