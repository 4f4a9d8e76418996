"""Wikitext to prose: marks go, words stay, whatever is left open."""

from __future__ import annotations

import time

import pytest
from wiki_exports import WIKIS, articles, markup_in

from pipeline_lib.pairs.prose import paragraphs
from pipeline_lib.sources.wikis.names import WikiNames
from pipeline_lib.sources.wikis.wikitext import prose_of

SWEDISH = WikiNames({6: ["Fil"], 14: ["Kategori"], 10: ["Mall"], 2: ["Användare"], -2: ["Media"]})
ARTICLE = """{{Infobox|a={{b|c}}}}
'''Yeast''' is a [[Fungus|fungus]]<ref name="x">A book, p. 5.</ref> used in [[bread]] and [http://a.org beer].<ref name="x" />
[[File:Yeast.jpg|thumb|A picture of [[yeast]].]]
{| class="wikitable"
| cell || other
|}
== History ==
It is old &amp; known.<!-- a remark -->
* first
* second
=== Egypt ===
They had it too.
== References ==
{{reflist}}
Books.
=== More books ===
Still more.
== Legacy ==
The end.
[[Category:Fungi]]
[[de:Hefe]]"""


def shown(wikitext: str) -> str:
    """The prose of a Swedish page, its lines as one."""
    return " ".join(prose_of(wikitext, SWEDISH, "Staden").text.split())


def test_wikitext_becomes_markdown_headings_and_prose() -> None:
    prose = prose_of(ARTICLE)
    assert [paragraph.text for paragraph in paragraphs(prose.text)] == [
        "Yeast is a fungus used in bread and beer.",
        "History",
        "It is old & known.",
        "first",
        "second",
        "Egypt",
        "They had it too.",
        "Legacy",
        "The end.",
    ]
    assert "## History" in prose.text and "### Egypt" in prose.text


def test_what_is_omitted_is_counted_by_kind() -> None:
    assert prose_of(ARTICLE + "\nIt is {{dunno|x|{{y}}}} <math>x</math> here. <pre>x</pre> {{lang|de|ja}}").omitted == {
        "templates": 1, "inline_templates": 1, "references": 2, "media": 1, "tables": 1, "sections": 2, "categories": 1,
        "languages": 1, "formulas": 1, "code": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        # names of the wiki itself, the canonical ones, aliases; in any case, with underscores and marks of direction
        ("a [[Fil:x|miniatyr|b [[c]]]] [[fil : x]] [[FILE:x]] [[Bild:x]] [[\u200fFil:x]] [[Kategori:b]] [[category:b]] d", "a d"),
        ("a [[Grafik:x.svg|mini|b]] [[Ukjent:x|250px|b]] [[Ukjent:x|x20px]] d", "a d"),  # by ending and width
        ("[[:Fil:x.jpg|the file]] [[:Kategori:Hamnar]] [[Användare:Bo|Bo]] [[Media:x.ogg|listen]]", "the file Hamnar Bo listen"),
        # words with colons are words; links to other languages are none
        ("[[re:publica]] [[re:publica|it]] [[doi:10.1/x|words]] [[Is: a]] [[2:1]]", "re:publica it words Is: a 2:1"),
        ("a [[sv:Jäst]] [[zh-min-nan:x]] [[be-x-old:y]] [[:de:Hefe]] [[sv:Jäst|ord]] [[wikt:yeast]]", "a Hefe ord yeast"),
        ("[[wikt:yeast|]] [[Mall:a (b)|]] [[Fil:x.jpg|]] [[cat:a]]", "yeast a cat:a"),
        ("[[a|b]]s [[a#b]] [[#b|c]] [[#d]] [[Mercury (planet)|]] [[Mall:x|y]] [[a|b|c]]", "bs a#b c d Mercury y c"),
        # magic words in any script, but no names of Python
        ("__NOTOC__ __notoc__ __INGENINNEHÅLLSFÖRTECKNING__ __БЕЗ_ОГЛ__ __目次非表示__ __لا_فهرس__ __init__", "__init__"),
        ("[http://a.org words] [https://a.org] [//a.org b] [mailto:a@b c] [http://a.org|d] [sic] [1]", "words b c d [sic] [1]"),
        ("[http://a.org [[x|y]] ''z'']", "y z"),
        ("l'''amour'' ''a'' '''b''' '''''c''''' ''''d'''' it's", "l'amour a b c 'd' it's"),
        ("-{zh-hans:计算机;zh-hant:電腦}-和-{H|zh-cn:甲}-乙-{丙}--{A|zh:[[丁]];zh-tw:x}-", "计算机和乙丙丁"),
        ("<nowiki>[</nowiki>a<nowiki>]</nowiki> <nowiki>'''b''' {{c}} [[d]]</nowiki><nowiki />", "[a] b c d"),
        ("a <code>print</code> <code><nowiki>{{x}}</nowiki></code> <sub>b</sub> <br/> <poem>c\nd</poem>", "a print x b c d"),
        ("a&nbsp;b &lt; c &#91;d&#93; &unknown; &#xD800; AT&T", "a b < c [d] &unknown; \ufffd AT&T"),
        ("* a\n** b\n# c\n: d\n;e: f\n----\n~~~~\n*\n* [[Kategori:x]]", "- a - b - c d e: f"),
        ("a ({{IPA|x}}) b ({{IPA|x}}; c) (, ) d（{{x}}）e", "a b (c) de"),
        ("a <gallery>\nFil:x.jpg|b\n</gallery> <syntaxhighlight lang=x>c == d</syntaxhighlight> <table><tr><td>x</table> e", "a e"),
        # templates that are shown
        ("{{convert|5|km|mi}}, {{cvt|3|m}}, {{convert|5|ft|6|in|m}}, {{convert|10|-|20|km}}", "5 km, 3 m, 5 ft 6 in, 10–20 km"),
        ("a {{efn|b}}. c <ref>d</ref>, e {{sfn|f}} g", "a. c, e g"),
        ("{{lang|de|[[Hund|Hünde]]}} {{lang-fr|chat}} {{Mall:Lang|fr|x y}} {{transl|ja|ALA|neko}}", "Hünde chat x y neko"),
        ("{{quote|To be.|W. S.}} {{Citat|text=Or not.}} {{nowrap|a b}} {{abbr|c|d}} {{frac|1|2}}", "To be. Or not. a b c 1/2"),
        ("{{nihongo|Tower|塔|tō}} {{formatnum:1,200}} {{PAGENAME}} {{#if:x|y|z}} {{#if:|y|z}}", "Tower (塔, tō) 1,200 Staden y z"),
        ("{{{a|b}}} {{{c}}} {{{{{d}}}}} {{lc:ABC}} e{{ndash}}f [[g{{!}}h]] {{#invoke:x|y}}", "b abc e–f h"),
        # what is left open costs no words
        ("{{Infobox\n| a = b\n| c = <li>d<li>e\n\nf g", "f g"),
        ("{{Infobox\n| a = <li>b\n| c = <tr><td>d\n}}\ne f", "e f"),
        ("a {{circa|1950 in a town. {{cite web|title=x} b {{c", "a 1950 in a town. b c"),
        ("a [[b c. [[d|e f]] [[Fil:x.jpg|mini|g [[h]]\n\n[[i|j] k l", "a b c. e f j k l"),
        ("a\n{| class=x\n! b !! c\n|-\n| d || e\n\nf g\n\n| h\n", "a f g"),
        ("a\n{|\n|b\n{|\n|c\n|}\n|d\n|}\ne\n:{|\n|f\n|}\ng", "a e g"),
        ("a<ref>b c\n\nd<ref name=e> f<ref>g</ref> h <ref name=i/> j", "ab c d f h j"),
        ("a <!-- b\nc\n\nd <math>e\n\nf <nowiki>g <gallery>\nh.jpg\n\ni", "a d f g i"),
        ("a <i>b <br clear=all c <span style='x'>d </div> </ref> [http://a.org e", "a b c d e"),
        ("}} a ]] b }}\n|}}\n|}\nc", "a b c"),
        ("a -{b c", "a b c"),
    ],
)  # fmt: skip
def test_marks_go_and_words_stay(wikitext: str, prose: str) -> None:
    assert shown(wikitext) == prose


def test_a_heading_ends_what_is_left_open() -> None:
    opened = ["{{a|", "{{a\n| b = c", "[[Fil:a.jpg|b", "{|\n|a", "<ref>", "<gallery>\n", "<table><tr>", "-{", "[http://a.org "]
    for mark in opened:
        assert prose_of(f"Words.\n{mark}\n== Later ==\nMore }}}} ]] words.").text.endswith("\n\n## Later\n\nMore words."), mark


@pytest.mark.parametrize(
    "mark",
    ["{{a|", "[[a|", "{|\n|", "<b>", "<ref>", "[http://a ", "}}{{a|{{b|", "</b><b><i>", "<div class=x>", "<table>\n\n", "<!--",
     "{{lang|de|", "{{{a|", "-{", "'''", "<nowiki>", "\n== a ==\n<gallery>", "< ", "a''b", "__A", "(,", "\n|a", "[[Fil:a.jpg|"],
)  # fmt: skip
def test_time_grows_with_the_length_alone(mark: str) -> None:
    begin = time.process_time()
    prose_of(mark * (1_000_000 // len(mark)), SWEDISH)
    prose_of(mark * 100_000 + "}}" * 100_000 + "]]" * 100_000, SWEDISH)
    assert time.process_time() - begin < 20  # 1 to 2 s; of the square of the length it would be hours


@pytest.mark.parametrize("code", WIKIS)
def test_the_detector_sees_what_the_articles_hold(code: str) -> None:
    kinds = set(markup_in("\n".join(page.wikitext for page in articles(code, 20)), code))
    assert kinds >= {
        "link",
        "template",
        "table",
        "option",
        "emphasis",
        "tag",
        "width",
        "file",
        "switch",
        "namespace",
        "heading",
    }
    assert markup_in(" ".join(" ".join(page.sentences) for page in articles(code, 3)), code) == []


BACK_MATTER = {
    "sv": "Externa länkar", "de": "Einzelnachweise", "fr": "Notes et références", "es": "Véase también", "it": "Voci correlate",
    "pt": "Ligações externas", "nl": "Zie ook", "pl": "Przypisy", "ru": "См. также", "uk": "Примітки", "cs": "Související články",
    "fi": "Aiheesta muualla", "no": "Eksterne lenker", "da": "Eksterne henvisninger", "hu": "Jegyzetek", "ro": "Legături externe",
    "tr": "Dış bağlantılar", "el": "Παραπομπές", "ja": "関連項目", "zh": "參考文獻", "ko": "같이 보기", "ar": "وصلات خارجية",
    "he": "הערות שוליים",
}  # fmt: skip


@pytest.mark.parametrize("code", WIKIS)
def test_sections_of_links_are_left_out_in_every_language(code: str) -> None:
    page = f"Prose.\n\n== {BACK_MATTER[code]} ==\n* [[A link]]\n=== Deeper ===\n* Another\n\n== History ==\nMore prose."
    prose = prose_of(page)
    assert prose.text == "Prose.\n\n## History\n\nMore prose." and prose.omitted["sections"] == 2


def test_words_that_head_prose_too_are_back_matter_at_the_top_alone() -> None:
    page = "== Kultur ==\nText.\n=== Literatur ===\nDie Dichter des Landes.\n== Literatur ==\n* Ein Buch.\n"
    assert prose_of(page).text == "## Kultur\n\nText.\n\n### Literatur\n\nDie Dichter des Landes."
