"""Evaluation suites, one file each: a file that names its own in SUITES (and FAMILIES, GROUPS) is found here."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType


def suite_modules() -> Iterator[ModuleType]:
    """The files of this folder that hold suites, in the order of their names."""
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda module: module.name):
        if found.name != "registry":  # which asks
            module = import_module(f"{__name__}.{found.name}")
            if hasattr(module, "SUITES"):
                yield module
