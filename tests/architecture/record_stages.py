"""Records what the source of every stage looked like when its version was set.

    python tests/architecture/record_stages.py                 records stages that are new or whose version was raised
    python tests/architecture/record_stages.py --same-output   also those that changed and still give the same output

A stage's source is the module that defines its `Stage(...)` and the modules that it imports, down to the ground floor
(config, store, runtime and the schemas, which every stage shares). Modules that it imports by their names count too, and those
of the objects that it is handed. Comments, docstrings and layout do not count.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RECORD = Path(__file__).with_name("stage_sources.json")
COMMAND = "python tests/architecture/record_stages.py --same-output"

SOURCE_FOLDERS = ("flows", "tasks", "pipeline_lib", "data_contracts", "benchmarks")
SHARED = ("pipeline_lib.errors", "pipeline_lib.config", "pipeline_lib.store", "pipeline_lib.runtime", "data_contracts.schemas")

IMPORTS_ITS_OWN = 'import_module(f"{__name__}.'  # a package's, of the module with the name that is asked for

# a stage's objects are made elsewhere: their protocol is in its output, though it imports none of them
HANDED = {"evaluate_suite": "pipeline_lib.evaluation.suites.registry"}

Stages = dict[str, dict[str, Any]]


def read_sources(root: Path) -> dict[str, str]:
    """Module name to source, of every module of the house."""
    paths = [path for folder in SOURCE_FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return {module_name(path.relative_to(root)): path.read_text(encoding="utf-8") for path in paths}


def stages_of(sources: dict[str, str]) -> Stages:
    """Stage name to its version and the hash of each module that makes its output."""
    found: Stages = {}
    for module, source in sources.items():
        for call in ast.walk(ast.parse(source)):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func) in ("Stage", "artifact.Stage")):
                continue
            fields = {keyword.arg: keyword.value for keyword in call.keywords}
            name = fields.get("name")
            if isinstance(name, ast.Constant):  # a computed name is a place below another stage
                assert name.value not in found, f"{module}: a second stage {name.value!r}"
                roots = (module, HANDED.get(name.value, module))
                found[name.value] = {
                    "version": _number(fields["version"], module, sources),
                    "modules": {m: source_hash(sources[m]) for m in sorted(_closure(roots, sources))},
                }
    return dict(sorted(found.items()))


def source_hash(source: str) -> str:
    """Of what a module does: comments, docstrings and layout left out; the same under every Python version."""
    return hashlib.sha256(_canonical(ast.parse(source)).encode()).hexdigest()[:16]


def changes(recorded: Stages, current: Stages) -> dict[str, str]:
    """Stage to what is wrong with its record; empty where every record holds."""
    found = {}
    for name, stage in current.items():
        before = recorded.get(name)
        if before is None:
            found[name] = "is not recorded yet"
        elif before["version"] != stage["version"]:
            found[name] = f"went from version {before['version']} to {stage['version']} and is not recorded yet"
        elif before["modules"] != stage["modules"]:
            both = sorted(set(before["modules"]) | set(stage["modules"]))
            changed = [m for m in both if before["modules"].get(m) != stage["modules"].get(m)]
            found[name] = f"kept version {stage['version']}, but {', '.join(changed)} changed"
    gone = {name: "is recorded, but no longer defined" for name in recorded if name not in current}
    return found | gone


def read_record(path: Path) -> Stages:
    """What was recorded last; empty where nothing was."""
    return json.loads(path.read_text()) if path.is_file() else {}


def main(arguments: list[str]) -> int:
    """Write the record, or say which stages need a raised version or the word that their output is the same."""
    current = stages_of(read_sources(ROOT))
    found = changes(read_record(RECORD), current)
    kept = {name: what for name, what in found.items() if "kept version" in what}
    for name, what in found.items():
        print(f"stage {name} {what}")
    if kept and "--same-output" not in arguments:
        print(f"raise the version of: {', '.join(kept)}; or, if equal inputs still give equal output: {COMMAND}")
        return 1
    RECORD.write_text(json.dumps(current, indent=1, sort_keys=True) + "\n")
    print(f"{len(current)} stages recorded in {RECORD}")
    return 0


def _closure(roots: Iterable[str], sources: dict[str, str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        current = waiting.pop()
        if current in seen or current not in sources or current == "pipeline_lib" or _is_shared(current):
            continue
        seen.add(current)
        waiting += imports_of(sources[current], sources)
        waiting += _by_name(current, sources)
    return seen


def _is_shared(module: str) -> bool:
    return any(module == room or module.startswith(room + ".") for room in SHARED)


def imports_of(source: str, known: Mapping[str, object]) -> list[str]:
    """The modules that a source imports, in inner functions too; `from a import b` is a.b where that is a known module."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found += [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]
    return found


def module_name(path: Path) -> str:
    """pipeline_lib/tokens/shards.py is pipeline_lib.tokens.shards; a package is its folder's name."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _by_name(module: str, sources: dict[str, str]) -> list[str]:
    """The modules that a module may import by their names: "package.module:function", or all of its own package."""
    strings = (node.value for node in ast.walk(ast.parse(sources[module])) if isinstance(node, ast.Constant))
    named = [text.partition(":")[0] for text in strings if isinstance(text, str) and ":" in text]
    own = [other for other in sources if other.startswith(f"{module}.")] if IMPORTS_ITS_OWN in sources[module] else []
    return own + [name for name in named if name in sources]


def _number(node: ast.expr, module: str, sources: dict[str, str]) -> int:
    """The value of a version: a number, a constant of this or another module, or a sum or product of such."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = (_number(side, module, sources) for side in (node.left, node.right))
        return left + right if isinstance(node.op, ast.Add) else left * right
    home, _, constant = ast.unparse(node).rpartition(".")
    for statement in ast.walk(ast.parse(sources[module])):
        if isinstance(statement, ast.Assign) and not home and ast.unparse(statement.targets[0]) == constant:
            return _number(statement.value, module, sources)
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                name = alias.asname or alias.name
                if home and name == home:
                    return _number(ast.Name(constant), f"{statement.module}.{alias.name}", sources)
                if not home and name == constant:
                    return _number(ast.Name(alias.name), str(statement.module), sources)
    raise AssertionError(f"{module}: cannot read the version {ast.unparse(node)!r}; write a number or a constant")


def _canonical(node: Any) -> str:
    if isinstance(node, ast.AST):
        body = getattr(node, "body", None)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node):
            node.body = body[1:]  # type: ignore[index]
        fields = [
            f"{name}={_canonical(value)}"
            for name in node._fields
            if name not in ("ctx", "kind", "type_comment") and (value := getattr(node, name, None)) not in (None, [])
        ]
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
