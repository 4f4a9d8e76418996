"""Which room may import which: the directions of the plan of the house, read from the imports of every module."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

SOURCE_FOLDERS = ("flows", "tasks", "pipeline_lib", "data_contracts", "benchmarks")

# A room is the longest of these prefixes; it imports itself, the rooms listed, and the ground.
GROUND = "data_contracts.schemas"
LIBRARY = "pipeline_lib"
FLOOR = (f"{LIBRARY}.errors", f"{LIBRARY}.config", f"{LIBRARY}.store", f"{LIBRARY}.runtime")  # what every stage shares
TOKENS, MODEL, SOURCES = f"{LIBRARY}.tokens", f"{LIBRARY}.model", f"{LIBRARY}.sources"
LANGUAGES = f"{LIBRARY}.languages"
ROOMS: dict[str, tuple[str, ...]] = {
    GROUND: (),
    LIBRARY: (),
    LANGUAGES: (f"{LIBRARY}.errors",),
    **dict.fromkeys(FLOOR, (*FLOOR, LANGUAGES)),
    SOURCES: (*FLOOR, LANGUAGES),
    "pipeline_lib.pairs": (*FLOOR, SOURCES, LANGUAGES),
    "pipeline_lib.training_sets": (*FLOOR, SOURCES),
    "pipeline_lib.curation": FLOOR,
    TOKENS: FLOOR,
    MODEL: (*FLOOR, TOKENS),
    "pipeline_lib.export.self_test": FLOOR,
    "pipeline_lib.export": (*FLOOR, TOKENS, MODEL, "pipeline_lib.export.self_test"),
    "pipeline_lib.train": (*FLOOR, TOKENS, MODEL),
    "pipeline_lib.evaluation": (*FLOOR, TOKENS, MODEL, "pipeline_lib.export", "pipeline_lib.export.self_test"),
    "pipeline_lib.search": (*FLOOR, TOKENS, "pipeline_lib.export.self_test"),
    "pipeline_lib.search.mining": (*FLOOR, "pipeline_lib.search", "pipeline_lib.training_sets"),
    "data_contracts": ("pipeline_lib.*",),
    "tasks": ("data_contracts", "pipeline_lib.*"),
    "flows": ("tasks", "data_contracts", "pipeline_lib.*"),
    "benchmarks": ("tasks", "data_contracts", "pipeline_lib.*"),
}

# (module prefix, what it never imports, the modules below it that may)
FORBIDDEN_LIBRARIES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("pipeline_lib", ("prefect", "great_expectations"), ()),
    ("pipeline_lib.search", ("torch", "transformers", "sentence_transformers"), ("pipeline_lib.search.mining",)),
    ("pipeline_lib.tokens", ("torch", "transformers"), ()),
    ("pipeline_lib.curation", ("torch", "transformers"), ()),
    ("data_contracts", ("prefect",), ()),
    ("data_contracts", ("great_expectations",), ("data_contracts.runner",)),
    ("tasks", ("great_expectations",), ()),
    ("flows", ("great_expectations", "torch", "transformers"), ()),
)


def module_name(path: Path) -> str:
    """pipeline_lib/tokens/shards.py is pipeline_lib.tokens.shards; a package is its folder's name."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str, known: Mapping[str, object] | None = None) -> list[tuple[int, str]]:
    """(line, module) of every import, inner ones too; `from a import b` is a.b where that is a known module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; write the whole name"
            base = node.module or ""
            modules = {f"{base}.{a.name}" if f"{base}.{a.name}" in (known or {}) else base for a in node.names}
            found += [(node.lineno, module) for module in sorted(modules)]
    return found


def room_of(module: str) -> str | None:
    """The room that a module belongs to; None outside the house."""
    return max((room for room in ROOMS if _within(module, room)), key=len, default=None)


def wrong_directions(module: str, source: str, known: Mapping[str, object] | None = None) -> list[str]:
    """Imports of this module that go against the plan."""
    room = room_of(module)
    assert room is not None, f"{module} is in no room of import_rules.ROOMS; give it one"
    found = []
    for line, imported in imports_of(source, known):
        target = room_of(imported)
        if target is not None and not _may(room, target):
            found.append(f"{line}: {module} ({room}) imports {imported} ({target})")
        for prefix, libraries, exempt in FORBIDDEN_LIBRARIES:
            bound = _within(module, prefix) and not any(_within(module, other) for other in exempt)
            if bound and imported.split(".")[0] in libraries:
                found.append(f"{line}: {module} imports {imported}, which {prefix} never does")
    return found


def import_cycles(graph: Mapping[str, set[str]]) -> list[str]:
    """Cycles of modules that import each other, each once, "a -> b -> a"."""
    done: set[str] = set()
    found: list[str] = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
            return
        if module in done:
            return
        for imported in sorted(graph.get(module, ())):
            visit(imported, [*path, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def _within(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def _may(room: str, target: str) -> bool:
    if target in (room, GROUND):
        return True
    return any(target == allowed or (allowed.endswith(".*") and _within(target, allowed[:-2])) for allowed in ROOMS[room])
