"""Documents and pairs of one text, or the reason why it gives none: code by its definitions, prose by its paragraphs."""

from __future__ import annotations

from contextlib import suppress
from email.parser import HeaderParser

from data_contracts.schemas import row_id
from pipeline_lib.config.data import ExtractConfig, TextPairsConfig
from pipeline_lib.languages import rules_of, scripts
from pipeline_lib.languages.rules import Doc, ParseLimit
from pipeline_lib.pairs.code_blocks import BrokenNotebook, block_pairs, markdown_blocks, read_notebook
from pipeline_lib.pairs.code_pairs import code_pairs, note_broken_parse
from pipeline_lib.pairs.definitions import find_definitions
from pipeline_lib.pairs.document_filters import DocumentText, document_drop, identify_language
from pipeline_lib.pairs.filters import has_control_bytes, is_test_path
from pipeline_lib.pairs.prose import book_of, docstring_paragraphs, paragraphs
from pipeline_lib.pairs.tables import Kind, Rows, document_id
from pipeline_lib.pairs.text_pairs import Section, least_size_of_a_pair, text_pairs
from pipeline_lib.pairs.web_prose import web_prose
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import CODE_FORMS, NOTEBOOK, SourceFile
from pipeline_lib.sources.time_limit import within_time

# Refusals that are a rule of ours, not a fault of the file: counted as drops.
_DROPS = frozenset(
    {
        "deleted", "file_too_large", "http_status", "not_an_article", "not_html", "other_capture", "redirect",
        "revisit_unresolved", "unknown_language",
    }
)  # fmt: skip
_STOPWORDS = frozenset(
    "the of to and a in is that for it with as be this on are by or an from".split()  # noqa: SIM905
)


def kind_of(file: SourceFile) -> Kind:
    """The kind of a file's pairs: code or prose."""
    return "code" if file.form in CODE_FORMS or file.form == NOTEBOOK else "text"


def extract_found(found: SourceRecord, config: ExtractConfig, rows: Rows) -> None:
    """Add one text's documents and pairs to the rows, or the reason why there are none; nothing leaves without one."""
    if isinstance(found.content, Skips):
        rows.skip(found.content)
        return
    content = found.content
    rows.facts["texts"] += 1
    documents, refused, dropped = rows.facts["documents"], rows.refused.total(), dict(rows.dropped)
    if isinstance(content, SourceText) and not is_taken(found.file):
        rows.dropped["not_sampled"] += 1
    elif not is_test(found.file, rows):
        rows.omitted.update(found.omitted)
        hung = within_time("pairs", lambda: _extract_text(found.file, content, config, rows))
        if hung is not None:
            rows.refuse(found.file, kind_of(found.file), hung.reason, hung.detail)
    if (documents, refused) != (rows.facts["documents"], rows.refused.total()):
        return
    if not (why := [reason for reason, count in rows.dropped.items() if count > dropped.get(reason, 0)]):
        rows.dropped["no_text"] += 1  # of markup alone
        why = ["no_text"]
    rows.left_out[why[0]] += 1


def is_taken(file: SourceFile) -> bool:
    """True where a text belongs to the share of its source that is taken: by the hash of its path, whatever else there is."""
    return file.weight >= 1 or int(row_id(file.source, file.path)[:8], 16) < file.weight * 2**32


def is_test(file: SourceFile, rows: Rows) -> bool:
    """True where a file holds tests, by its name: it is counted and not even read."""
    if file.form in CODE_FORMS and is_test_path(file.inner_path):
        rows.dropped["file_of_tests"] += 1
        return True
    return False


def _extract_text(file: SourceFile, source: SourceText | Refusal, config: ExtractConfig, rows: Rows) -> None:
    if isinstance(source, Refusal):
        if source.reason in _DROPS:
            rows.dropped[source.reason] += 1
        else:
            rows.refuse(file, kind_of(file), source.reason, source.detail, source.offset)
    elif not source.text.strip():
        rows.dropped["file_empty"] += 1
    else:
        filters = config.filters.resolved(file.filters)
        if filters.web.enabled and file.form not in CODE_FORMS and file.form not in ("metadata", NOTEBOOK):
            source = SourceText(web_prose(source.text, filters.web, rows.dropped), b"")
        if reason := document_drop(as_document(file, source.text), filters):
            rows.dropped[reason] += 1
        elif file.form in CODE_FORMS:
            _extract_code(file, source, config, rows)
        elif file.form == NOTEBOOK:
            _extract_notebook(file, source, config, rows)
        else:
            _extract_prose(file, source, config, rows)


def as_document(file: SourceFile, text: str) -> DocumentText:
    """A file's text as the rules for documents look at it."""
    if file.form == NOTEBOOK:
        with suppress(BrokenNotebook):  # extraction says so
            return DocumentText(read_notebook(text).code, "code", file.licence)
    prose = description(text)[0] if file.form == "metadata" else text
    return DocumentText(prose, "code" if file.form in CODE_FORMS else "prose", file.licence)


def _extract_code(file: SourceFile, source: SourceText, config: ExtractConfig, rows: Rows) -> None:
    rules = rules_of(file.form)
    language = rules.told_by_text(source.data) if rules.told_by_text is not None else file.form
    if language != file.form:
        if language not in config.code.languages:
            rows.dropped["other_language"] += 1
            return
        rules = rules_of(language)
    document = rows.add_document(file, "code", language, source.text)
    if language not in config.code.languages:
        return
    try:
        limits = config.code.parse_seconds, config.code.parse_steps_per_kb
        definitions = find_definitions(source.data, rules, rules.module_name(file.inner_path), *limits)
    except ParseLimit as error:
        rows.refuse(file, "code", "parse_limit", str(error))
        return
    rows.facts["broken_bytes"] += note_broken_parse(definitions[0], source.data, rows.dropped)
    pairs = code_pairs(definitions, source.data, config.code, rules, rows.dropped)
    for position, pair in enumerate(pairs):
        rows.add_code_pair(file, document, language, position, pair)
    sections = []
    by_words = config.text.unit != "characters"
    least = least_size_of_a_pair(config.text) if by_words else 0
    for definition in definitions:
        doc = definition.doc
        if doc is None or definition.in_test or definition.broken or not (doc.may_have(least) and _is_long(doc, config.text)):
            continue
        if has_control_bytes(doc.value):  # as escapes in a literal can make them: "\0", "\ud800"
            rows.dropped["not_text"] += 1
            continue
        sections.append(Section(definition.qualified_name, docstring_paragraphs(doc.value, doc.line)))
    _add_text_pairs(file, sections, config, rows)


def _extract_notebook(file: SourceFile, source: SourceText, config: ExtractConfig, rows: Rows) -> None:
    """A document of the code with the pairs of its cells, and one of the prose with the pairs of neighbours."""
    try:
        notebook = read_notebook(source.text)
    except BrokenNotebook as error:
        rows.refuse(file, "code", "broken_notebook", str(error))
        return
    name = file.path.rsplit("/", 1)[-1]
    if notebook.blocks:
        document = document_id(file, "code")
        if notebook.code.strip():  # else of magics alone
            rows.add_document(file, "code", notebook.language, notebook.code)
        for position, (language, pair) in enumerate(block_pairs(notebook.blocks, "cell", name, config.code, rows.dropped)):
            rows.add_code_pair(file, document, language, position, pair)
    _add_text_pairs(file, [Section(name, [part for prose in notebook.prose for part in prose])], config, rows)


def _is_long(doc: Doc, config: TextPairsConfig) -> bool:
    """True where a docstring is long enough for two segments; words are counted only where the characters may suffice."""
    least = least_size_of_a_pair(config)
    if config.unit == "characters":
        return len(doc.value) >= least - 2  # the ends of two segments
    if len(doc.value) >= 2 * least and len(doc.value.split(None, least)) >= least:
        return True
    return not doc.value.isascii() and config.unit == "auto" and scripts.count_units(doc.value) >= least


def _extract_prose(file: SourceFile, source: SourceText, config: ExtractConfig, rows: Rows) -> None:
    text, line, markdown = source.text, 1, file.form == "markdown"
    name = file.path.rsplit("/", 1)[-1]
    if file.form == "metadata":
        text, line, markdown = description(text)
        name = file.source
    elif file.form == "plain":
        text, line = book_of(text)
    found = paragraphs(text, line, indented_code=markdown)
    _add_text_pairs(file, [Section(name, found)], config, rows)
    if file.form == "markdown" and "markdown" in config.code.blocks and found:  # of the same document
        document = document_id(file, "text")
        for position, (language, pair) in enumerate(
            block_pairs(markdown_blocks(text), "block", name, config.code, rows.dropped)
        ):
            rows.add_code_pair(file, document, language, position, pair)


def _add_text_pairs(file: SourceFile, sections: list[Section], config: ExtractConfig, rows: Rows) -> None:
    """Add one prose document for all sections, and the pairs of neighbours inside each."""
    sections = [section for section in sections if section.paragraphs]
    is_code = file.form in CODE_FORMS
    if not sections:
        if not is_code:
            rows.dropped["no_prose"] += 1
        return
    text = "\n\n".join(paragraph.text for section in sections for paragraph in section.paragraphs)
    if is_code and (reason := document_drop(DocumentText(text, "docstrings"), config.filters.resolved())):
        rows.dropped[reason] += 1
        return
    language = identify_language(text) if config.filters.languages else prose_language(text)
    document = rows.add_document(file, "text", language, text)
    for position, pair in enumerate(text_pairs(sections, config.text, rows.dropped, whole=not is_code)):
        rows.add_text_pair(file, document, language, position, pair)


def description(metadata: str) -> tuple[str, int, bool]:
    """The long description in a METADATA file: its text, the line that it starts at, whether it is Markdown."""
    head, _, body = metadata.partition("\n\n")
    headers = HeaderParser().parsestr(head)
    markdown = (headers["Description-Content-Type"] or "").strip().lower().startswith("text/markdown")
    if body.strip():
        return body, head.count("\n") + 3, markdown
    folded = headers["Description"] or ""  # metadata before version 2.1 holds it in a folded header
    return "\n".join(line.removeprefix("        ").removeprefix("       |") for line in folded.split("\n")), 1, markdown


def prose_language(text: str) -> str:
    """`en` where at least one in 20 of the first 500 words is a common English one, else `und` (undetermined)."""
    words = text[:4000].lower().split()[:500]
    common = sum(map(_STOPWORDS.__contains__, words))
    return "en" if words and common * 20 >= len(words) else "und"
