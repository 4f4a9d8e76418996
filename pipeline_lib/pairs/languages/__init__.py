"""Programming languages, one file each: what the extraction must know of them."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from pipeline_lib.errors import UserError
from pipeline_lib.pairs.languages.rules import LanguageRules


@lru_cache
def rules_of(language: str) -> LanguageRules:
    """The rules of a language by its name; its grammar is imported when it is first asked for.

    Raises:
        UserError: the grammar is not installed.
    """
    try:
        module = import_module(f"{__name__}.{language}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("tree_sitter"):
            raise
        raise UserError(
            f"code pairs in {language} need the module {error.name}, which is not installed here: "
            "run `pip install cpt-factory[dumps]`, or leave the language out of extract.code.languages"
        ) from error
    rules: LanguageRules = getattr(module, language.upper())
    return rules
