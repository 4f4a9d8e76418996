"""Rules that neither ruff nor import-linter has, as functions from one file's source to its violations, "line: what".

Those of whole folders take a listing instead: paths from the root of the project, one a line.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath

FILE_LINES = 400
FUNCTION_LINES = 60
ROOM_FILES = 18
BESIDES = ("__init__.py", "__main__.py")
# rooms with more files than that: how many they may have, None where a file is added for each new one, and why
LARGER_ROOMS: dict[str, tuple[int | None, str]] = {
    "pipeline_lib/evaluation/suites": (None, "a suite is one file"),
    "pipeline_lib/languages": (None, "a language is one file"),
    "pipeline_lib/sources/readers": (None, "a reader is one file"),
    "benchmarks": (29, "a benchmark is a command of its own; no more until one is merged"),
    "flows": (24, "a flow is one file, beside what flows share; no more until some is merged"),
    "pipeline_lib/config": (20, "a file for each stage's options; no more until some are merged"),
    "pipeline_lib/sources": (19, "what readers share; no more until some is merged"),
    "pipeline_lib/train": (24, "the training loop and what it needs; no more until some is merged"),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str], list[str]]

HOMES = ("work", "root", "home", "Users")
UNSAFE_READ = re.compile(r"allow_pickle\s*=\s*(?!False)|\.extractall\(")
# tokens that their makers gave a shape, and private keys
TOKEN = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{60}|\bglpat-[\w-]{20}|\bhf_[A-Za-z0-9]{30}"
    r"|\bxox[abprs]-[\w-]{10}|\bpypi-AgE[\w-]{50}|\bsk-[A-Za-z0-9]{32}|\bpn[ua]_[A-Za-z0-9]{36}|\bAIza[\w-]{35}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----|hooks\.slack\.com/services/T\w{8,}/B\w{8,}/\w{20}"
)
ABSOLUTE_PATH = re.compile(rf"(?<![\w./~-])/({'|'.join(HOMES)})/")


def long_file(source: str) -> list[str]:
    """Files stay under 400 lines."""
    n_lines = len(source.splitlines())
    return [f"{n_lines}: lines in one file, at most {FILE_LINES}"] if n_lines > FILE_LINES else []


def long_functions(source: str) -> list[str]:
    """Functions stay under 60 lines, their docstring included."""
    return [
        f"{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}"
        for node in functions(source)
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]


def crowded_rooms(listing: str) -> list[str]:
    """A package holds at most 18 modules besides __init__ and __main__; a larger one no more than LARGER_ROOMS has of it."""
    paths = [PurePosixPath(line) for line in listing.splitlines()]
    counts = Counter(str(path.parent) for path in paths if path.suffix == ".py" and path.name not in BESIDES)
    found = []
    for room, n_files in sorted(counts.items()):
        most = LARGER_ROOMS.get(room, (ROOM_FILES, ""))[0]
        if most is not None and n_files > most:
            found.append(f"{room}: {n_files} modules, at most {most}: merge some, or make a room of those that belong together")
        elif most is not None and room in LARGER_ROOMS and n_files < most:
            found.append(
                f"{room}: {n_files} modules, fewer than the {most} of LARGER_ROOMS: lower that, or remove it at {ROOM_FILES}"
            )
    return found


def shadowed_modules(listing: str) -> list[str]:
    """No module beside a flow has a name of Python's own: Prefect puts a flow's folder first on the path of all its processes.

    With flows/platform/, `import platform` would find that in every process that a run starts.
    """
    names = {PurePosixPath(path).parts[1].removesuffix(".py") for path in listing.splitlines() if path.startswith("flows/")}
    return [f"flows/{name}: Python has a module of that name" for name in sorted(names & sys.stdlib_module_names)]


def unsafe_reads(source: str) -> list[str]:
    """No pickled arrays, no archive that writes where it likes (ruff knows of tar only); ruff bans the other ways."""
    return [f"{number}: {line.strip()[:80]}" for number, line in enumerate(source.splitlines(), 1) if UNSAFE_READ.search(line)]


def flows_without_roots(source: str) -> list[str]:
    """Every flow that takes parameters looks first whether they stay within the allowed roots."""
    found = []
    for node in functions(source):
        decorators = [ast.unparse(one.func if isinstance(one, ast.Call) else one) for one in node.decorator_list]
        takes_params = any(argument.arg == "params" for argument in node.args.args)
        body = [line for line in node.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
        if "flow" in decorators and takes_params and ast.unparse(body[0]) != "admit(params)":
            found.append(f"{node.lineno}: {node.name} does not begin with admit(params)")
    return found


def tests_without_assertion(source: str) -> list[str]:
    """Every test can fail: it asserts, expects an error, or calls a helper that is named after doing so."""
    found = []
    for node in functions(source):
        if node.name.startswith("test") and not any(_asserts(inner) for inner in ast.walk(node)):
            found.append(f"{node.lineno}: {node.name} asserts nothing")
    return found


def machine_paths(text: str) -> list[str]:
    """Nothing names a folder that only a developer's machine has."""
    return [
        f"{number}: names an absolute path: {line.strip()[:80]}"
        for number, line in enumerate(text.splitlines(), 1)
        if ABSOLUTE_PATH.search(line)
    ]


def secrets(text: str) -> list[str]:
    """No file of the project holds a token or a private key."""
    return [f"{number}: a secret" for number, line in enumerate(text.splitlines(), 1) if TOKEN.search(line)]


def functions(source: str) -> list[Function]:
    """Every function of the file, methods and inner ones too."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).split(".")[-1]
    return name in ("raises", "warns", "fail") or name.startswith(("assert", "check_", "expect"))
