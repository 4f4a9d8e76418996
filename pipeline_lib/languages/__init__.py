"""Programming languages, one file each: how its files are named, its grammar, its definitions and their documentation.

A file NAME.py with `RULES` is all that another language takes: its name is one of `extract.code.languages`, its suffixes are
read in every source that it is asked for in, and contracts know it. What prose is written in is `scripts.py`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline_lib.languages.rules import LanguageRules

_BESIDE = {"doc_comments", "rules", "scripts"}  # files that are no language
# CodeSearchNet's, in the order that names what has been extracted; further ones follow by name. Files of these are read in
# every source, those of further ones where they are asked for.
USUAL = ("python", "javascript", "java", "go", "php", "ruby")
# what records and fences of Markdown call them besides
_ALIASES = {
    "py": "python", "python3": "python", "ipython": "python", "ipython3": "python", "js": "javascript", "jsx": "javascript",
    "node": "javascript", "golang": "go", "rb": "ruby", "ts": "typescript", "h": "c", "c++": "cpp", "cxx": "cpp",
    "cc": "cpp", "hpp": "cpp", **{f"c++{year}": "cpp" for year in (11, 14, 17, 20, 23)},
    "c#": "csharp", "cs": "csharp", "c_sharp": "csharp", "c-sharp": "csharp", "rs": "rust",
    "kt": "kotlin", "kts": "kotlin", "sc": "scala",
}  # fmt: skip


@cache
def language_names() -> tuple[str, ...]:
    """All languages; nothing is imported for it."""
    found = {module.name for module in iter_modules(__path__)} - _BESIDE
    return tuple(sorted(found, key=lambda name: (USUAL.index(name) if name in USUAL else len(USUAL), name)))


def language_called(name: str) -> str:
    """The language that a record or a fence means by a name; the name itself in lower case where it is none's."""
    name = name.strip().lower()
    return _ALIASES.get(name, name)


@cache
def rules_of(language: str) -> LanguageRules:
    """The rules of a language by its name; its grammar is imported when the first text is parsed."""
    rules: LanguageRules = import_module(f"{__name__}.{language}").RULES
    return rules


@cache
def languages_by_suffix() -> dict[str, str]:
    """Suffix of a file to the name of its language.

    Raises:
        ValueError: two languages claim one suffix.
    """
    found: dict[str, str] = {}
    for language in language_names():
        for suffix in rules_of(language).suffixes:
            if (other := found.setdefault(suffix, language)) != language:
                raise ValueError(f"languages {other} and {language} both claim files in {suffix}; take it out of one of them")
    return found


@cache
def languages_sharing(suffix: str) -> tuple[str, ...]:
    """Further languages whose files may have a suffix that is another one's."""
    return tuple(language for language in language_names() if suffix in rules_of(language).shared_suffixes)
