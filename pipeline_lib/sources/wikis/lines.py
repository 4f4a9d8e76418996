"""Lines of a wikitext without templates, tables and links: external links, tags, emphasis, lists, entities and the like."""

from __future__ import annotations

import html
import re

_HTML = (
    "abbr|b|bdi|bdo|big|blockquote|br|caption|center|ce|chem|cite|code|col|colgroup|dd|del|dfn|div|dl|dt|em|font|gallery|h[1-6]|hr"
    "|i|imagemap|img|includeonly|ins|kbd|li|mark|math|noinclude|nowiki|ol|onlyinclude|p|poem|pre|q|rb|ref|references|rp|rt|rtc"
    "|ruby|s|samp|score|section|small|source|span|strike|strong|sub|sup|syntaxhighlight|table|tbody|td|templatestyles|tfoot|th"
    "|thead|time|timeline|tr|tt|u|ul|var|wbr"
)
_TAG = re.compile(
    rf"(?i)<\s?/?\s?({_HTML})\b(?:[^<>]{{0,300}}>|(?:\s+[\w:-]{{1,40}}\s*=\s*(?:\"[^\"<>\n]*\"|[^\s<>\"']+))*\s?/?)"
)
_BREAKS = {"br": "\n", "hr": "\n", "li": "\n- ", "dd": "\n", "dt": "\n", "tr": "\n", "div": "\n", "td": " ", "th": " "}
_BREAKS |= dict.fromkeys(("p", "blockquote", "poem", "center", "section", "ul", "ol", "dl"), "\n\n")
_VARIANT = re.compile(r"-\{([^{}]*)\}-")
_RULE = re.compile(r"\s*[a-z]{2,3}(?:-[a-z]+)?\s*:")
_EXTERNAL = re.compile(
    r"\[(?:(?:[A-Za-z][A-Za-z+.-]{1,10}:)?//|(?:mailto|news|tel|sms|urn|geo):)[^\s\[\]<>|\"]*[ \t|]*([^\]\n]*)\]?"
)
_SWITCH = re.compile(r"__([^\W\d_](?:[^\W_]|_(?!_)){1,40})__")  # __NOTOC__, in any language
_SWITCHES = frozenset("notoc nogallery forcetoc toc noeditsection newsectionlink hiddencat index noindex nocc notc".split())
_SIGNATURE = re.compile(r"~{3,}")
_LINE_MARK = re.compile(r"^[ \t]*([*#:;]+)[ \t]*|^[ \t]*-{4,}|^={2,}[ \t]*", re.MULTILINE)
_QUOTES = re.compile(r"'{2,}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_LEFT_OVER = re.compile(r"\[\[|\]\]|\{\{+|\}\}+|={2,}$", re.MULTILINE)
_SPACES = re.compile(r"[ \t\xa0]+")
_EDGES = re.compile(r" ?\n ?")
_EMPTY_ITEM = re.compile(r"^- ?$", re.MULTILINE)
_BEFORE_POINT = re.compile(r" ([.,])(?=[ \n]|$)")  # where a note stood
# what a template of pronunciation or dates leaves behind
_EMPTY_BRACKETS = re.compile(r" ?\([\s,;:،؛、]*\)|（[\s,;:，；、]*）")
_AFTER_BRACKET = re.compile(r"([(（])[,;:，；、،؛][ ,;:，；、،؛]*")


def cleaned_lines(text: str) -> str:
    """The lines as Markdown prose: what a reader sees of them."""
    if "-{" in text:
        text = _without_variants(text)
    if "[" in text:
        text = _EXTERNAL.sub(r"\1", text)
    if "<" in text:
        text = _TAG.sub(_break, text)
    if "__" in text:
        text = _SWITCH.sub(_switch, text)
    if "~~~" in text:
        text = _SIGNATURE.sub("", text)
    text = _LEFT_OVER.sub("", _LINE_MARK.sub(_list_mark, text))
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
    text = _BEFORE_POINT.sub(r"\1", _EMPTY_ITEM.sub("", _EDGES.sub("\n", _SPACES.sub(" ", text))))
    if "(" in text or "（" in text:
        text = _AFTER_BRACKET.sub(r"\1", _EMPTY_BRACKETS.sub("", text))
    return text


def _break(tag: re.Match[str]) -> str:
    return _BREAKS.get(tag.group(1).lower(), "") if "/" not in tag.group()[:3] or tag.group(1).lower() != "li" else ""


def _list_mark(mark: re.Match[str]) -> str:
    kinds = mark.group(1)
    return "- " if kinds and ("*" in kinds or "#" in kinds) else ""


def _switch(found: re.Match[str]) -> str:
    word = found.group(1)
    return "" if word == word.upper() or word.lower() in _SWITCHES else found.group()


def _without_variants(text: str) -> str:
    """The first of each choice between scripts or regions: -{zh-hans:计算机;zh-hant:電腦}-."""
    for _ in range(5):  # they may be nested
        text, count = _VARIANT.subn(_variant, text)
        if not count:
            break
    return text.replace("-{", "").replace("}-", "")


def _variant(found: re.Match[str]) -> str:
    flags, bar, rules = found.group(1).rpartition("|")
    if bar and {"H", "T", "D", "-"} & set(flags.replace(" ", "").split(";")):
        return ""  # a rule for the rest of the page, or its title
    return rules.split(";")[0].partition(":")[2].strip() if _RULE.match(rules) else rules


def without_emphasis(text: str) -> str:
    """The text without italic and bold marks."""
    return "\n".join(_plain_line(line) if "''" in line else line for line in text.split("\n"))


def _plain_line(line: str) -> str:
    """A line without italic and bold marks, by MediaWiki's rule on which apostrophes are meant: l'''amour'' is l'amour."""
    runs = list(_QUOTES.finditer(line))
    sizes = [len(run.group()) for run in runs]
    bold = [run for run, size in zip(runs, sizes, strict=True) if size in (3, 4)]
    more = sum(size >= 5 for size in sizes)
    kept = {run.start(): "'" * (1 if size == 4 else max(0, size - 5)) for run, size in zip(runs, sizes, strict=True)}
    if bold and (len(bold) + more) % 2 and (sizes.count(2) + more) % 2:
        kept[_apostrophe(line, bold).start()] += "'"
    return _QUOTES.sub(lambda run: kept[run.start()], line)


def _apostrophe(line: str, bold: list[re.Match[str]]) -> re.Match[str]:
    """The bold mark that is an apostrophe and an italic one: behind a word of one letter, else of several, else a space."""
    after_word = None
    for run in bold:
        start = run.start()
        if line[max(0, start - 1) : start] not in ("", " "):
            if line[max(0, start - 2) : max(0, start - 1)] in ("", " "):
                return run
            after_word = after_word or run
    return after_word or bold[0]
