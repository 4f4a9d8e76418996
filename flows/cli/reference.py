"""Pages of the documentation that are made from the code: `python -m flows.cli.reference` writes all of them.

What a page says of a thing stands beside the thing: a field's description, a comment behind a column, a rule's reason, the
detail of a refusal.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import typer
from pydantic import BaseModel

from data_contracts import document_suite, evaluation_suite, pair_suite, schemas, shard_suite
from pipeline_lib.config import paper
from pipeline_lib.config.data import ContractConfig
from pipeline_lib.config.options import Option
from pipeline_lib.config.overrides import in_yaml
from pipeline_lib.config.reference import reference as configuration

ROOT = Path(__file__).parents[2]
FOLDERS = ("pipeline_lib", "data_contracts")
MADE = "This page is generated from the code, by `python -m flows.cli.reference`.\n"
# reasons that stand in SQL, or are chosen by more than one rule
CODE_REASONS = {
    "test": "a function of tests",
    "syntax_error": "a function that does not parse",
    "dunder": "a method such as `__init__`, which the language calls",
    "constructor": "a constructor, or a method with the name of its class",
    "standard_method": "a method that every class may have, such as `toString`",
    "has_doc": "in the view `name`: a function with a docstring, which gives its own pair",
    "no_doc": "no docstring or documentation comment",
    "trivial": "fewer lines of body than `min_body_lines`",
    "short_name": "in the view `name`: fewer words than `min_name_words`",
    "short_doc": "a first paragraph of fewer words than `min_doc_words`",
    "not_text": "control characters",
    "too_large": "more bytes than `max_function_bytes`",
}
OTHER_REASONS = {
    "inconsistent": "a training pair whose y the guide does not rank among the first `guide.keep_top` of its block",
    "no_document": "a row of queries that names no document",
    "blank_query": "a row of queries without a word",
    "unknown_document": "a row of queries whose document is none of the dump's texts",
    "ambiguous_document": "a row of queries whose document is the name of several texts",
    "document_too_large": "a row of queries that names a whole document of more than `queries.max_document_bytes`",
    "repeated_row": "a row of queries that an earlier one repeats",
    "query_is_document": "a row of queries whose query is its document",
    "query_holds_document": "a row of queries whose query holds all of its document",
    "query_not_text": "a row of queries with control characters",
    "not_sampled": "outside of the share `weight` of its source",
    "file_of_tests": "a file of tests, by its name",
    "no_text": "only markup",
    "web_list": "lines of a web page: menus, lists, tables",
    "web_notice": "lines of a web page: the site's own notices, such as cookie consent",
    "licence_or_list": "a licence, or a list such as requirements.txt",
    "other_language": "code in a language that is not read",
    "no_code_or_prose": "neither code nor prose, by its suffix",
    "version_control": "in a folder of version control, such as .git; the folder counts as one",
    "vendored_folder": "in a folder of vendored code, such as node_modules; the folder counts as one",
    "test_folder": "in a test folder of the standard library; the folder counts as one",
    "outside_folder": "this machine's Python: a file outside its package's folder",
    "broken_parse": "code that the parser did not understand, counted once per file; the rest of the file is read",
    "link": "a symbolic link, which is not followed",
    "no_words": "an evaluation text without words, which cannot be searched for",
    "contaminated": "contains a text of an evaluation set",
    "duplicate_pair": "the same x and y occurred before",
    "duplicate_x": "the same x occurred before, with another y",
    "duplicate_y": "the same y occurred before, with another x",
    "near_duplicate_": "nearly the same as an earlier document, x or y (the reason ends with which)",
    "held_out_twin": "a pair with a text that another split has and keeps",
    "for_training": "a short function (`min_function_lines`) that is not in the training split",
    "neutral": "of a training set: a neutral statement",
    "no_gold_label": "of a training set: the annotators did not agree",
    "below_min_relevance": "of a training set: judged less relevant than `min_relevance`",
    "duplicate": "of a training set: the pair occurred before",
    "same_text": "of a training set: x and y are the same",
    "no_negatives": "of a training set: without negatives, where they are required",
}
REFUSED = {
    "refused": "an endpoint's answer to a request for queries that says no, and would again",
    "not_a_completion": "an endpoint's answer that is no chat completion",
    "cut_short": "an endpoint's answer that ended before its last query, for want of tokens",
    # whose detail is only what was found
    "bad_latex": "LaTeX that its parser refuses",
    "bad_record": "an incomplete record of a web archive",
    "bad_row": "a row that is not XML",
    "line_too_large": "a line of a training set beyond `max_text_bytes`",
    "malformed_record": "a record whose fields are of other kinds than its layout's",
    "no_row": "a row of a table that cannot be read",
    "not_unicode": "a text with lone surrogates, or control characters where none may be",
    "tree_depth": "a repository of folders nested too deep; see source.limits.max_depth",
    "unreadable": "a file that the system does not permit to read",
}


def pages() -> dict[str, Callable[[], str]]:
    """Place below docs/ to what makes the page."""
    return {
        "reference/configuration.md": configuration,
        "reference/dump-spec.md": dump_spec,
        "reference/options.md": options,
        "reference/artifacts.md": artifacts,
        "reference/contracts.md": contracts,
        "reference/reasons.md": reasons,
        paper.PAGE: paper.page,
    }


# ---- dump spec


def dump_spec() -> str:
    """Fields of an entry, and every reader with its options."""
    from pipeline_lib.sources import readers
    from pipeline_lib.sources.dump_spec import AUTO, TEXT, TREE, DumpSource

    kinds = {TREE: "A folder of code and prose.", TEXT: "Files that are one text each.", AUTO: "Each file by its first bytes."}
    lines = [
        "# Dump spec\n",
        f"A YAML list of sources, which `--source` and `cpt inspect` take. {MADE}",
        "```yaml\n- reader: json_lines\n  url: wiki/*.jsonl\n  licence: CC-BY-SA-4.0\n  options: {text: body}\n```\n",
        _table(("field", "default", "meaning"), _fields(DumpSource)),
        "\n## Readers\n",
        *(f"- `{name}`: {about}" for name, about in kinds.items()),
        "",
    ]
    for name in readers.reader_names():
        module = import_module(f"{readers.__name__}.{name}")
        lines += [f"### `{name}`\n", f"{_first_line(module)}\n"]
        lines += (
            [f"Names: {', '.join(f'`{suffix}`' for suffix in module.READER.suffixes)}.\n"] if module.READER.suffixes else []
        )
        lines += ["Needs the extra `dumps`.\n"] if module.READER.needs else []
        fields = list(_fields(module.READER.options)) if module.READER.options else []
        lines += [_table(("option", "default", "meaning"), fields) + "\n"] if fields else []
    return "\n".join(lines)


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        default = "" if field.is_required() else f"`{in_yaml(field.get_default(call_default_factory=True))}`"
        yield f"`{name}`", default, f"{field.description or ''}{_choices(name, field)}"


def _choices(name: str, field: Any) -> str:
    expected = Option((name,), field).expected
    return f" One of {expected.removeprefix('one of ')}." if expected.startswith("one of") else ""


# ---- commands


def options() -> str:
    """Every command with all of its options, as `cpt COMMAND -h` prints them."""
    from flows.cli.commands import app

    lines = ["# Options of the commands\n", f"As `cpt COMMAND -h` has them; [by task](commands.md). {MADE}"]
    for name, command in sorted(_commands(typer.main.get_command(app), "cpt")):
        rows = [_option(found) for found in command.params if not getattr(found, "hidden", False)]
        words = [name, *(_argument(found) for found in command.params if _is_argument(found))]
        words += ["[OPTIONS]"] if len(rows) >= len(words) else []
        lines += [f"## `{name}`\n", f"```\n{' '.join(words)}\n```\n", f"{_first(command.help)}\n"]
        lines += [_table(("option", "default", "meaning"), rows) + "\n"] if rows else []
    return "\n".join(lines)


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for word in command.list_commands(None):
        yield from _commands(command.get_command(None, word), f"{name} {word}")


def _argument(found: Any) -> str:
    name = found.metavar or found.name.upper()
    return name if found.required else f"[{name}]"


def _is_argument(found: Any) -> bool:
    return bool(found.param_type_name == "argument")


def _option(found: Any) -> tuple[str, ...]:
    if _is_argument(found):
        return f"`{_argument(found)}`", "", found.help or ""
    names = ", ".join(f"`{word}`" for word in (*found.opts, *found.secondary_opts))
    default = found.show_default if isinstance(found.show_default, str) else found.default
    shown = "required" if found.required else "" if default in (None, False, "", ()) else f"`{default}`"
    return names, shown, found.help or ""


# ---- artifacts and contracts


def artifacts() -> str:
    """Fields of a manifest and of run.json, and the stages that write artifacts."""
    from pipeline_lib.store import records

    lines = [
        "# Artifacts\n",
        "`CPT_HOME/store/STAGE/KEY/manifest.json` is an artifact: a list of parts, each a folder of files."
        f" [Why](../design/ideas.md). {MADE}",
    ]
    source = _source(records)
    for model in (records.Manifest, records.Part, records.File, records.Counts):
        comments = _comments(source, model.__name__)
        rows = [(f"`{name}`", _type(field.annotation), comments.get(name, "")) for name, field in model.model_fields.items()]
        lines += [f"## {model.__name__}\n", f"{_first(model.__doc__)}\n", _table(("field", "type", "meaning"), rows) + "\n"]
    lines += [
        "## run.json\n",
        f"{_first(records.RunRecord.__doc__)} It may differ between two runs that make the same bytes.\n",
    ]
    lines += ["## Stages\n", _table(("stage", "module", "what it makes"), sorted(_stages())) + "\n"]
    return "\n".join(lines)


def _stages() -> Iterator[tuple[str, ...]]:
    for path, tree in _trees():
        for call in _calls(tree, "Stage"):
            found = {word.arg: word.value for word in call.keywords}.get("name")
            if isinstance(found, ast.Constant):
                yield f"`{_text(found)}`", f"`{path.relative_to(ROOT)}`", _first(ast.get_docstring(tree)).partition(". ")[0]


def contracts() -> str:
    """Columns of every table that one stage hands to the next, and the contracts of their rows."""
    tables = {name: value for name, value in vars(schemas).items() if isinstance(value, pa.Schema)}
    tables |= {"tokens_schema": schemas.tokens_schema(50_257), "text_tokens_schema": schemas.text_tokens_schema(50_257)}
    limits = shard_suite.TokenLimits((1,), (2,), (3,), (4,), 50_257, 256, 512, (1, 2, 3, 4))
    suites = (
        document_suite.document_suite(),
        pair_suite.pair_suite(ContractConfig()),
        shard_suite.shard_suite(limits, negatives=True),
        evaluation_suite.evaluation_suite(),
    )
    lines = [
        "# Data contracts\n",
        "A row that breaks its contract goes to quarantine under the reason; too many of them stop the run"
        f" (`contract.max_quarantined_share`). {MADE}",
        "## What a row must be\n",
        "Bounds are those of the defaults; tokens as for texts of 256 and 512.\n",
    ]
    for suite in suites:
        rows = [(f"`{expect.column}`", expect.expected, f"`{expect.reason}`") for expect in suite.expectations]
        lines += [f"### {suite.name}\n", _table(("column", "expected", "reason"), rows), f"\nWhat to do: {suite.advice}.\n"]
    lines += ["## Columns\n"]
    for name, schema in tables.items():
        comments = _comments(_source(schemas), name)
        rows = [(f"`{column.name}`", str(column.type), comments.get(column.name, "")) for column in schema]
        lines += [f"### `{name}`\n", _table(("column", "type", "meaning"), rows) + "\n"]
    return "\n".join(lines)


# ---- reasons


def reasons() -> str:
    """Every reason under which something left out is counted."""
    from pipeline_lib.pairs import document_filters as filters
    from pipeline_lib.pairs.filters import TEXT_RULES
    from pipeline_lib.pairs.text_pairs import TEXT_REASONS

    rules = [
        rule for group in (filters.GENERAL, filters.WEB, filters.QUALITY, filters.REPETITION, filters.CODE) for rule in group
    ]
    tables = {
        "Documents": {rule.name: rule.reason for rule in rules},
        "Functions and classes": CODE_REASONS,
        "Neighbouring texts": {**{rule.name: rule.reason for rule in TEXT_RULES}, **TEXT_REASONS},
        "Files, duplicates, splits, training sets": OTHER_REASONS,
    }
    lines = [
        "# Reasons\n",
        "Nothing is left out silently: it is counted under one of these reasons, in the manifest (`counts.dropped`), the"
        f" quarantine table or the losses. `cpt inspect` shows a sample of each. {MADE}",
    ]
    for heading, words in tables.items():
        rows = [(f"`{word}`", about) for word, about in words.items()]
        lines += [f"## {heading}\n", _table(("reason", "what it is"), rows) + "\n"]
    lines += [
        "## Texts and files that cannot be read\n",
        "Of a file that holds many texts, what came before is kept. `...` stands for figures and names."
        ""
        " Reasons of rows that break a contract: [data contracts](contracts.md). What evaluation suites leave out stands in"
        " their facts (`left_out`), in words such as `queries_without_judgement`.\n",
        _table(("reason", "said", "by"), _refusals()) + "\n",
    ]
    return "\n".join(lines)


def _refusals() -> list[tuple[str, ...]]:
    """Each refusal's word, its details as they are written, and the modules that give it."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for path, tree in _trees():
        for call in (*_calls(tree, "Refusal"), *_calls(tree, "Bad")):
            if len(call.args) > 1 and (word := _text(call.args[0])) not in ("", "..."):
                details, modules = found.setdefault(word, ({}, {}))
                details.setdefault(_text(call.args[1]))
                modules.setdefault(path.stem if path.stem != "__init__" else path.parent.name)
    return [
        (f"`{word}`", REFUSED.get(word) or "; ".join(filter(_says, details)), ", ".join(sorted(modules)))
        for word, (details, modules) in sorted(found.items())
    ]


def _says(detail: str) -> bool:
    return bool(detail.strip(".: ;,()"))


# ---- source


@cache
def _trees() -> list[tuple[Path, ast.Module]]:
    paths = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def _calls(tree: ast.Module, name: str) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            yield node


def _text(node: ast.expr) -> str:
    """A literal as it is written, with `...` for what is put into it; empty where it is none."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)  # type: ignore[misc]
    return ""


def _source(module: ModuleType) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def _comments(source: str, name: str) -> dict[str, str]:
    """Comments behind the columns or fields of a table, function or class of that name."""
    for node in ast.parse(source).body:
        names = [getattr(target, "id", "") for target in getattr(node, "targets", [])] or [getattr(node, "name", "")]
        if name in names:
            block = source.splitlines()[node.lineno - 1 : node.end_lineno]
            found = (re.match(r'^\s+(?:\("(\w+)"|(\w+):).*?# (.*)$', line) for line in block)
            return {match[1] or match[2]: match[3] for match in found if match}
    return {}


def _type(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    return re.sub(r"[\w.]*\.(\w+)", r"\1", name)


def _first_line(module: ModuleType) -> str:
    return _first(module.__doc__)


def _first(doc: str | None) -> str:
    return " ".join((doc or "").partition("\n\n")[0].split())


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in (header, ("---",) * len(header), *rows))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", r"\<")


def write(docs: Path = ROOT / "docs") -> None:
    """Write every page anew."""
    for place, make in pages().items():
        (docs / place).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write()
