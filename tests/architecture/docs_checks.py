"""Checks of the documentation: each yields what a page says that the tree, the terminal or the configuration does not have."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer
import yaml
from pydantic import BaseModel

from pipeline_lib.config.presets import preset, preset_names
from pipeline_lib.config.run import RunConfig

ROOT = Path(__file__).parents[2]
FOLDERS = ("pipeline_lib", "flows", "tasks", "data_contracts", "tests", "benchmarks", "docs")
TEST_FOLDERS = ("unit", "integration", "reliability", "security", "architecture", "gpu")
FILES_OF_OTHERS = {"relevanceeval.py", "model_test.py", "download_data.py"}
OPTIONS_OF_OTHERS = {"--nthreads", "--find-links", "--slow", "--limit", "--host"}  # of Dask, pip, pytest and Prefect
OPTIONS_OF_OTHERS |= {"--target", "--nodes", "--array", "--requeue", "--signal"}  # of Docker and SLURM
PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(FOLDERS)})/[\w./*-]*\w)")
TEST_PATH = re.compile(rf"(?<![\w/.-])((?:{'|'.join(TEST_FOLDERS)})/[\w/]+\.py)")
MODULE = re.compile(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})(?:\.\w+)+)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.M)
SETTING = re.compile(r"[a-z_]+(\.[a-z_]+)+(?<!\.json)(?<!\.onnx)(?<!\.py)(?<!\.html)(?<!\.tsv)(?<!\.jsonl)(?<!\.faiss)")
RUNS = re.compile(r"^<!-- runs(, slow)? -->\n```sh\n(.*?)^```$", re.M | re.S)
PLACEHOLDER = re.compile(r"\.\.\.|\[|\bN\b|[|]")  # of a synopsis
NEED_A_PRESET = ("run", "build-dataset", "pretrain", "train", "ablate")  # their models ask for it, not their options
KEYS_OF_A_PRESET = {"base", "description"}


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path
    text: str

    @cached_property
    def blocks(self) -> list[tuple[str, str]]:
        """Fenced code with its language."""
        return FENCE.findall(self.text)

    @cached_property
    def prose(self) -> str:
        """All but fenced code."""
        return FENCE.sub("", self.text)

    @cached_property
    def spans(self) -> list[str]:
        """Inline code; a span may go on in the next line."""
        paragraphs = re.split(r"\n\s*\n", self.prose)
        return [" ".join(span.split()) for paragraph in paragraphs for span in re.findall(r"`([^`]+)`", paragraph)]

    @cached_property
    def lines(self) -> list[str]:
        """Command lines: of fenced shell code and of indented code, a line that is cut by a backslash as one."""
        code = "\n".join(block for language, block in self.blocks if language in ("sh", ""))
        code += "\n" + "\n".join(re.findall(r"^ {4}(\S.*)$", self.prose, re.M))
        return [line.strip() for line in code.replace("\\\n", " ").splitlines()]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link may name after `#`: each heading in lower case, without punctuation, words joined by hyphens."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.M)
        return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


Check = Callable[[Page], Iterator[str]]


def read_page(path: Path) -> Page:
    return Page(path, path.read_text(encoding="utf-8"))


def linked_files(page: Page) -> Iterator[tuple[str, Path, str]]:
    """Each relative link as it stands, the file that it leads to, and its anchor."""
    for one, other in LINK.findall(page.prose):
        target = one or other
        if not re.match(r"\w+:", target):
            place, _, anchor = target.partition("#")
            yield target, (page.path.parent / place).resolve() if place else page.path, anchor


def dead_links(page: Page) -> Iterator[str]:
    for target, path, anchor in linked_files(page):
        if (
            not path.exists()
            or (anchor and anchor not in read_page(path).anchors and path != page.path)
            or (anchor and path == page.path and anchor not in page.anchors)
        ):
            yield f"link to {target}"


def dead_paths(page: Page) -> Iterator[str]:
    """Paths of the tree anywhere; file names of Python and modules in code."""
    paths = PATH.findall(page.text) + [f"tests/{path}" for path in TEST_PATH.findall(page.text)]
    yield from (f"path {path}" for path in paths if not any(ROOT.glob(path.replace("NAME", "*"))))
    for span in page.spans:
        if re.fullmatch(r"\w+\.py", span) and span not in FILES_OF_OTHERS | python_files():
            yield f"file {span}"
    code = "\n".join([*page.spans, *(block for _, block in page.blocks), *page.lines])
    yield from (f"module {name}" for name in MODULE.findall(code) if not has_module(name))


def missing_tests(page: Page) -> Iterator[str]:
    """Names of tests; `test_x_*` stands for all that begin so."""
    for name in re.findall(r"(?:(?<=::)|(?<![\w/,]))(test_\w+\*)|::(test_\w+)(?![\w*])", page.text):
        start, whole = name
        if not re.search(rf"def {start.removesuffix('*')}" if start else rf"def {whole}[(]", test_code()):
            yield f"test {start or whole}"


def wrong_commands(page: Page) -> Iterator[str]:
    """Lines and spans that begin with `cpt`: unknown words and options, and options that are needed."""
    is_help = page.path.name == "options.md"  # whose commands are named in passing
    for line in [*page.lines, *page.spans]:
        if line.startswith("cpt "):
            yield from (f"`{line}`: {what}" for what in wrong_words(line) if not (is_help and what.startswith("lacks")))


def wrong_words(line: str) -> Iterator[str]:
    words = words_of(line)
    command = root = terminal()
    while is_group(command) and words and not words[0].startswith("-") and not words[0].isupper():
        found = command.get_command(None, words[0])
        if found is None:
            yield f"no command {words[0]}"
            return
        command, words = found, words[1:]
    known = {flag: option for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    known |= dict.fromkeys(root.context_settings.get("help_option_names", ["--help"]))
    flags = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    yield from (f"no option {flag}" for flag in flags if flag not in known)
    if flags and "..." not in words and not {"-h", "--help"} & set(flags):
        needed = [option.opts[0] for option in command.params if option.required and option.param_type_name == "option"]
        needed += ["--preset"] if command.name in NEED_A_PRESET else []
        yield from (f"lacks {flag}" for flag in dict.fromkeys(needed) if flag not in flags)
    yield from wrong_values(words)


def wrong_values(words: list[str]) -> Iterator[str]:
    """Presets and settings that there are not."""
    for flag, value in pairwise(words):
        if flag == "--preset" and value.islower() and value not in {*preset_names(), *own_presets()}:
            yield f"no preset {value}"
        if flag == "--set":
            yield from unknown_settings({value.partition("=")[0]: None})


def refused_commands(page: Page) -> Iterator[str]:
    """Whole command lines as the terminal itself reads them: a number where a word stands, an argument that is missing."""
    for line in page.lines:
        words = words_of(line.partition(" > ")[0].partition(" && ")[0])
        if not line.startswith("cpt ") or PLACEHOLDER.search(line) or {"-h", "--help"} & set(words):
            continue
        command, name = terminal(), "cpt"
        while is_group(command) and words:
            name, *words = words
            command = command.get_command(None, name)
        try:
            command.make_context(name, words)
        except Exception as error:
            yield f"`{line}`: {getattr(error, 'message', error)}"


def wrong_symptoms(page: Page) -> Iterator[str]:
    """Messages in the first column of the page of troubles that no line of the code says; `...` stands for anything."""
    if page.path.name == "troubleshooting.md":
        for symptom in re.findall(r"^\| `([^`]+)` \|", page.text, re.M):
            expected = ".*".join(map(re.escape, symptom.split("...")))
            if not any(re.search(expected, said) for said in messages()):
                yield f"message {symptom}"


def runnable_blocks(page: Page) -> Iterator[tuple[str, bool]]:
    """Shell code that a mark says can be run as it stands, and whether it takes long."""
    yield from ((code, bool(slow)) for slow, code in RUNS.findall(page.text))


def wrong_options(page: Page) -> Iterator[str]:
    """Options in prose: some command of ours has them, or a script."""
    for span in page.spans:
        flag = re.match(r"--[a-z][a-z0-9-]*", span)
        if flag and flag[0] not in all_options() | OPTIONS_OF_OTHERS:
            yield f"no option {flag[0]}"


def wrong_settings(page: Page) -> Iterator[str]:
    """Names such as `train.block_rows`, and YAML files of them."""
    for span in page.spans:
        if SETTING.fullmatch(span) and span.partition(".")[0] in RunConfig.model_fields:
            yield from unknown_settings({span: None})
    for language, block in page.blocks:
        values = yaml.safe_load(block) if language == "yaml" else None
        if isinstance(values, dict) and any(name in RunConfig.model_fields for name in values):
            yield from unknown_settings({name: value for name, value in values.items() if name not in KEYS_OF_A_PRESET})


def unknown_settings(values: Mapping[str, Any], model: Any = RunConfig, above: str = "") -> Iterator[str]:
    """Names of a configuration that no model has; a dotted name is one setting below another."""
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            continue  # the keys of a mapping are free
        if head not in model.model_fields:
            yield f"no setting {above}{head}"
        elif rest or isinstance(value, dict):
            below = {rest: value} if rest else value
            yield from unknown_settings(below, model.model_fields[head].annotation, f"{above}{head}.")


def wrong_checkpoints(page: Page) -> Iterator[str]:
    """A checkpoint that no run of the demo leaves."""
    train = preset("demo").train
    labels = {f"step-{number * train.steps // train.checkpoints:06}" for number in range(1, train.checkpoints + 1)}
    yield from (f"{label}, which the demo lacks" for label in re.findall(r"step-\d+", page.text) if label not in labels)


def wrong_targets(page: Page) -> Iterator[str]:
    """Targets of make and deployments of Prefect that there are not, and parameters that a flow does not take."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for line in [*page.lines, *page.spans]:
        make = re.match(r"make ([a-z-]+)$", line.partition("#")[0].partition("&&")[0].strip())
        if make and make[1] not in targets:
            yield f"no target {make[1]}"
        if line.startswith("prefect deployment run"):
            words = words_of(line)
            yield from wrong_deployment(words[3], words[words.index("-p") + 1] if "-p" in words else "{}")


def wrong_deployment(name: str, given: str) -> Iterator[str]:
    flow = deployments().get(name)
    if flow is None:
        yield f"no deployment {name}"
        return
    file, _, function = flow.rpartition(":")
    source = (ROOT / file).read_text(encoding="utf-8")  # importing a flow brings Prefect, which takes seconds
    model = re.search(rf"^def {function}\(params: (\w+)", source, re.M)
    assert model, f"{flow} takes no params"
    if values := json.loads(given.removeprefix("params=")):
        getattr(import_module("flows.params"), model[1]).model_validate(values)


def words_of(line: str) -> list[str]:
    """The words of a command line without `cpt`, its comment, and the brackets and bars of a synopsis."""
    text = line.removeprefix("cpt ").replace("\\|", "|")
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # a quote in the prose of an example
        words = text.split()
    return words if any("params=" in word for word in words) else [word.strip("[]") for word in words]


@cache
def own_presets() -> set[str]:
    """Presets of a user, whose files the documentation shows or names."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    return set(re.findall(r"presets/(\w+)\.yaml", pages))


@cache
def terminal() -> Any:
    """The commands of `cpt`: a group as click has it, whose classes typer keeps to itself."""
    from flows.cli.commands import app

    return typer.main.get_command(app)


def is_group(command: Any) -> bool:
    return hasattr(command, "list_commands")


@cache
def all_options() -> set[str]:
    """Every option of every command, and of the scripts of benchmarks/ and tests/."""
    found, waiting = set(), [terminal()]
    while waiting:
        command = waiting.pop()
        found |= {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
        if is_group(command):
            waiting += [command.get_command(None, name) for name in command.list_commands(None)]
    scripts = [path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py")]
    return found | set(re.findall(r'"(--[a-z][a-z-]*)"', "".join(scripts)))


@cache
def python_files() -> set[str]:
    return {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}


@cache
def test_code() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))


@cache
def messages() -> frozenset[str]:
    """Every literal of the code in one line, with `...` for what is put into it."""
    paths = [path for folder in FOLDERS[:4] for path in (ROOT / folder).rglob("*.py")]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    texts = ["".join(getattr(part, "value", "...") if isinstance(part, ast.Constant) else "..." for part in node.values)
             for node in nodes if isinstance(node, ast.JoinedStr)]  # fmt: skip
    texts += [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return frozenset(" ".join(text.split()) for text in texts)


@cache
def deployments() -> dict[str, str]:
    """Flow and name of each deployment to its entrypoint."""
    files = (ROOT / "prefect.yaml", ROOT / "deploy" / "prefect.yaml")
    entries = [one for path in files for one in yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]]
    return {f"{one['entrypoint'].rpartition(':')[2].replace('_', '-')}/{one['name']}": one["entrypoint"] for one in entries}


def has_module(name: str) -> bool:
    """True of a module, a package, or a name that a module defines."""
    place = ROOT / name.replace(".", "/")
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    module = place.parent.with_suffix(".py")
    return module.is_file() and re.search(rf"(class|def) {place.name}\b", module.read_text(encoding="utf-8")) is not None
