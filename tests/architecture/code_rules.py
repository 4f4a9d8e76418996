"""The rules of the house as functions from one file's source to the violations in it, "line: what"."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

FILE_LINES = 400
FUNCTION_LINES = 60
ARGUMENTS = 6
UNDOCUMENTED_METHOD_LINES = 5  # a short method of a documented class may say it by its name

Function = ast.FunctionDef | ast.AsyncFunctionDef
Rule = Callable[[str], list[str]]

BANNED_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BANNED_CALLS = {"torch.load": "safetensors", "os.system": "subprocess with a list", "pandas.read_pickle": "Parquet"}
SAFE_LOADERS = {"SafeLoader", "CSafeLoader"}
HOMES = ("work", "root", "home", "Users")
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


def many_arguments(source: str) -> list[str]:
    """Functions take at most six arguments, self excluded."""
    found = []
    for node in functions(source):
        names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        names = [name for name in names if name not in ("self", "cls")]
        if len(names) > ARGUMENTS:
            found.append(f"{node.lineno}: {node.name} takes {len(names)} arguments, at most {ARGUMENTS}")
    return found


def many_arguments_but_commands(source: str) -> list[str]:
    """The same for the terminal, where an option of a command is an argument of its function."""
    commands = {f"{node.lineno}:" for node in functions(source) if node.decorator_list}
    return [violation for violation in many_arguments(source) if violation.split(" ")[0] not in commands]


def banned_calls(source: str) -> list[str]:
    """No call that runs what a file or a text says: pickle, torch.load, eval, exec, extractall, a shell."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{node.lineno}: imports {m}" for m in modules if m.split(".")[0] in BANNED_IMPORTS]
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {what}" for what in _banned_call(node)]
    return found


def _banned_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    keywords = {keyword.arg: keyword.value for keyword in node.keywords}
    if name in ("eval", "exec"):
        yield f"calls {name}"
    if name in BANNED_CALLS:
        yield f"calls {name}; use {BANNED_CALLS[name]}"
    if name.endswith(".extractall"):
        yield "calls extractall, which writes wherever the archive says"
    if name.endswith("yaml.load") or name.endswith("yaml.unsafe_load") or name.endswith("yaml.full_load"):
        loader = keywords.get("Loader", node.args[1] if len(node.args) > 1 else None)
        if loader is None or ast.unparse(loader).split(".")[-1] not in SAFE_LOADERS:
            yield f"calls {name}; use yaml.safe_load"
    for keyword in ("shell", "allow_pickle"):
        if keyword in keywords and ast.unparse(keywords[keyword]) != "False":
            yield f"passes {keyword}={ast.unparse(keywords[keyword])}"


def prints(source: str) -> list[str]:
    """A library does not print."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f"{node.lineno}: prints" for node in calls if ast.unparse(node.func) == "print"]


def swallowed_errors(source: str) -> list[str]:
    """Whoever catches everything raises again."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler):
            caught = "everything" if node.type is None else ast.unparse(node.type)
            broad = node.type is None or re.search(r"\b(Exception|BaseException)\b", caught)
            if broad and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node)):
                found.append(f"{node.lineno}: catches {caught} and does not raise")
    return found


def missing_docstrings(source: str) -> list[str]:
    """Public functions, classes and long public methods say what they are for."""
    tree = ast.parse(source)
    found = [] if ast.get_docstring(tree) or not tree.body else ["1: the module has no docstring"]
    for node in tree.body:
        if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
            continue
        inside = [inner for inner in getattr(node, "body", []) if isinstance(node, ast.ClassDef)]
        long_methods = [
            inner
            for inner in inside
            if isinstance(inner, Function) and not inner.name.startswith("_") and _lines(inner) > UNDOCUMENTED_METHOD_LINES
        ]
        found += [
            f"{item.lineno}: {item.name} has no docstring"
            for item in (node, *long_methods)
            if not ast.get_docstring(item) and not _is_overload(item)
        ]
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


def functions(source: str) -> list[Function]:
    """Every function of the file, methods and inner ones too."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]


def _lines(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _is_overload(node: ast.AST) -> bool:
    return any("overload" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", []))


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func).split(".")[-1]
    return name in ("raises", "warns", "fail") or name.startswith(("assert", "check_", "expect"))
