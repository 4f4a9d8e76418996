"""Exports of wikis in 23 languages, written for the tests with the names that each wiki uses, and a detector of markup."""

from __future__ import annotations

import random
import re
from typing import NamedTuple
from xml.sax.saxutils import escape


class Wiki(NamedTuple):
    """One language's names: namespaces by their own name and an alias of it, words of markup, words of prose."""

    file: str
    file_alias: str
    category: str
    category_alias: str
    template: str
    user: str
    talk: str
    thumb: str
    redirect: str
    no_toc: str
    words: str
    space: str = " "
    end: str = ". "


WIKIS = {
    "sv": Wiki("Fil", "Bild", "Kategori", "Category", "Mall", "Användare", "Diskussion", "miniatyr", "#OMDIRIGERING",
        "__INGENINNEHÅLLSFÖRTECKNING__", "staden hamnen skeppet sjömannen åkern skogen vacker ligger växer mellan floden"),
    "de": Wiki("Datei", "Bild", "Kategorie", "Category", "Vorlage", "Benutzer", "Diskussion", "mini", "#WEITERLEITUNG",
        "__KEIN_INHALTSVERZEICHNIS__", "Stadt Hafen Schiff Matrose Acker Wald alt schön liegt wächst zwischen Fluss"),
    "fr": Wiki("Fichier", "Image", "Catégorie", "Category", "Modèle", "Utilisateur", "Discussion", "vignette", "#REDIRECTION",
        "__AUCUNSOMMAIRE__", "ville port navire marin champ forêt vieux beau repose grandit entre rivière"),
    "es": Wiki("Archivo", "Imagen", "Categoría", "Category", "Plantilla", "Usuario", "Discusión", "miniaturadeimagen",
        "#REDIRECCIÓN", "__NOTDC__", "ciudad puerto barco marinero campo bosque viejo hermoso queda crece entre río"),
    "it": Wiki("File", "Immagine", "Categoria", "Category", "Template", "Utente", "Discussione", "miniatura", "#RINVIA",
        "__NOINDICE__", "città porto nave marinaio campo bosco vecchio bello giace cresce tra fiume"),
    "pt": Wiki("Ficheiro", "Imagem", "Categoria", "Category", "Predefinição", "Usuário(a)", "Discussão", "miniaturadaimagem",
        "#REDIRECIONAMENTO", "__SEMTDC__", "cidade porto navio marinheiro campo floresta velho bonito fica cresce entre rio"),
    "nl": Wiki("Bestand", "Afbeelding", "Categorie", "Category", "Sjabloon", "Gebruiker", "Overleg", "miniatuur",
        "#DOORVERWIJZING", "__GEENINHOUD__", "stad haven schip matroos akker woud oud mooi ligt groeit tussen rivier"),
    "pl": Wiki("Plik", "Grafika", "Kategoria", "Category", "Szablon", "Wikipedysta", "Dyskusja", "mały", "#PATRZ",
        "__BEZSPISU__", "miasto port statek marynarz pole las stary piękny leży rośnie między rzeka"),
    "ru": Wiki("Файл", "Изображение", "Категория", "Category", "Шаблон", "Участник", "Обсуждение", "мини", "#ПЕРЕНАПРАВЛЕНИЕ",
        "__БЕЗ_ОГЛАВЛЕНИЯ__", "город порт корабль моряк поле лес старый красивый лежит растёт между река"),
    "uk": Wiki("Файл", "Зображення", "Категорія", "Категория", "Шаблон", "Користувач", "Обговорення", "мініатюра",
        "#ПЕРЕНАПРАВЛЕННЯ", "__БЕЗ_ЗМІСТУ__", "місто порт корабель моряк поле ліс старий гарний лежить росте між річка"),
    "cs": Wiki("Soubor", "Obrázok", "Kategorie", "Category", "Šablona", "Wikipedista", "Diskuse", "náhled", "#PŘESMĚRUJ",
        "__BEZOBSAHU__", "město přístav loď námořník pole les starý krásný leží roste mezi řeka"),
    "fi": Wiki("Tiedosto", "Kuva", "Luokka", "Category", "Malline", "Käyttäjä", "Keskustelu", "pienoiskuva", "#OHJAUS",
        "__EISISLUETT__", "kaupunki satama laiva merimies pelto metsä vanha kaunis sijaitsee kasvaa välissä joki"),
    "no": Wiki("Fil", "Bilde", "Kategori", "Category", "Mal", "Bruker", "Diskusjon", "mini", "#OMDIRIGERING",
        "__INGENINNHOLDSFORTEGNELSE__", "byen havnen skipet sjømannen åkeren skogen gammel vakker ligger vokser mellom elven"),
    "da": Wiki("Fil", "Billede", "Kategori", "Category", "Skabelon", "Bruger", "Diskussion", "mini", "#OMDIRIGERING",
        "__INGENINDHOLDSFORTEGNELSE__", "byen havnen skibet sømanden marken skoven gammel smuk ligger vokser mellem floden"),
    "hu": Wiki("Fájl", "Kép", "Kategória", "Category", "Sablon", "Szerkesztő", "Vita", "bélyegkép", "#ÁTIRÁNYÍTÁS",
        "__NINCSTARTALOMJEGYZÉK__", "város kikötő hajó tengerész mező erdő öreg szép fekszik nő között folyó"),
    "ro": Wiki("Fișier", "Imagine", "Categorie", "Category", "Format", "Utilizator", "Discuție", "miniatura", "#REDIRECTEAZA",
        "__FARACUPRINS__", "oraș port navă marinar câmp pădure bătrân frumos stă crește între râu"),
    "tr": Wiki("Dosya", "Resim", "Kategori", "Category", "Şablon", "Kullanıcı", "Tartışma", "küçükresim", "#YÖNLENDİRME",
        "__İÇİNDEKİLERYOK__", "şehir liman gemi denizci tarla orman eski güzel durur büyür arasında nehir"),
    "el": Wiki("Αρχείο", "Εικόνα", "Κατηγορία", "Category", "Πρότυπο", "Χρήστης", "Συζήτηση", "μικρογραφία",
        "#ΑΝΑΚΑΤΕΥΘΥΝΣΗ", "__ΧΩΡΙΣΠΠ__", "πόλη λιμάνι πλοίο ναύτης χωράφι δάσος παλιός όμορφος κείται μεγαλώνει μεταξύ ποτάμι"),
    "ja": Wiki("ファイル", "画像", "Category", "カテゴリ", "Template", "利用者", "ノート", "サムネイル", "#転送",
        "__目次非表示__", "都市 港湾 船舶 水夫 畑 森林 古い 美しい 位置し 成長する 中間の 河川", "", "。"),
    "zh": Wiki("File", "文件", "Category", "分类", "Template", "User", "Talk", "缩略图", "#重定向",
        "__无目录__", "城市 港口 船舶 水手 田野 森林 古老 美丽 坐落 生长 之间 河流", "", "。"),
    "ko": Wiki("파일", "그림", "분류", "Category", "틀", "사용자", "토론", "섬네일", "#넘겨주기",
        "__목차숨김__", "도시는 항구의 선박이 선원과 들판에 숲을 오래된 아름다운 위치한 자라는 사이의 강이"),
    "ar": Wiki("ملف", "صورة", "تصنيف", "Category", "قالب", "مستخدم", "نقاش", "تصغير", "#تحويل",
        "__لا_فهرس__", "مدينة ميناء سفينة بحار حقل غابة قديم جميل يقع ينمو بين نهر"),
    "he": Wiki("קובץ", "תמונה", "קטגוריה", "קט", "תבנית", "משתמש", "שיחה", "ממוזער", "#הפניה",
        "__ללא_תוכן__", "עיר נמל ספינה מלח שדה יער ישן יפה שוכן גדל בין נהר"),
}  # fmt: skip


class Page(NamedTuple):
    """A page as it stands in an export, and sentences of which a reader sees each word."""

    title: str
    wikitext: str
    sentences: list[str]


def siteinfo(code: str) -> str:
    """The head of an export in a language."""
    wiki = WIKIS[code]
    names = {-2: "Media", -1: "Special", 0: "", 1: wiki.talk, 2: wiki.user, 3: f"{wiki.user} {wiki.talk}", 4: "Wikipedia"}
    names |= {6: wiki.file, 10: wiki.template, 14: wiki.category}
    spaces = "".join(f'<namespace key="{key}" case="first-letter">{name}</namespace>' for key, name in names.items())
    return f"<siteinfo><dbname>{code}wiki</dbname><case>first-letter</case><namespaces>{spaces}</namespaces></siteinfo>"


def page_xml(title: str, text: str, ns: int | None = 0) -> str:
    """One page of an export; ns None: the export is of the kind that states none."""
    stated = "" if ns is None else f"<ns>{ns}</ns>"
    revision = f"<revision><id>5</id><model>wikitext</model><text>{escape(text)}</text></revision>"
    return f"<page><title>{escape(title)}</title>{stated}<id>1</id>{revision}</page>"


def export_of(code: str, pages: list[Page]) -> bytes:
    """An export: articles, a redirect in the wiki's own word, pages of other namespaces."""
    wiki = WIKIS[code]
    others = page_xml("Old", f"{wiki.redirect} [[{pages[0].title}]]") + page_xml(f"{wiki.category}:X", "Text.", 14)
    body = "".join(page_xml(page.title, page.wikitext) for page in pages) + others + page_xml(f"{wiki.user}:X", "Text.", 2)
    head = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="{code}">'
    return f"{head}{siteinfo(code)}{body}</mediawiki>".encode()


class _Writer:
    """Articles with all kinds of markup around sentences that are known."""

    def __init__(self, code: str, seed: int) -> None:
        self.wiki = WIKIS[code]
        self.other = "en" if code != "en" else "de"
        self.random = random.Random(f"{code} {seed}")
        self.words = self.wiki.words.split()
        self.sentences: list[str] = []

    def some(self, count: int) -> list[str]:
        return [self.random.choice(self.words) for _ in range(count)]

    def sentence(self) -> str:
        """Words of which some are linked, emphasised, noted or the like; a reader sees them all."""
        words = self.some(self.random.randint(9, 14))
        first = words[0][0].upper() + words[0][1:]
        shown = [first, *words[1:]]
        self.sentences.append(self.wiki.space.join(shown))
        ways = ("{0}", "[[{0}]]", "[[{1}|{0}]]", "''{0}''", "'''{0}'''", "[http://a.org/{2} {0}]", "{0}<ref>{1}</ref>",
                "<b>{0}</b>", "[[:{file}:{1}.jpg|{0}]]", "{{{{nowrap|{0}}}}}", "{{{{lang|{other}|{0}}}}}", "<!-- {1} -->{0}",
                '<span style="x">{0}</span>',
                "[[{user}:X|{0}]]", "{0}<ref name=a />", "[[{1}#{1}|''{0}'']]", "{0}{{{{Dunno|{1}={1}}}}}")  # fmt: skip
        emphasis = bool(self.wiki.space)  # marks of two words side by side would run together
        weights = [30, 10, 6, emphasis, emphasis] + [1] * (len(ways) - 5)
        names = {"file": self.wiki.file, "user": self.wiki.user, "other": self.other}
        number = self.random.randrange(100)
        marked = [way.format(word, self.random.choice(self.words), number, **names) for word, way in
                  zip(shown, self.random.choices(ways, weights, k=len(shown)), strict=True)]  # fmt: skip
        return self.wiki.space.join(marked) + self.wiki.end

    def paragraph(self) -> str:
        return "".join(self.sentence() for _ in range(self.random.randint(4, 8)))

    def image(self) -> str:
        """A file as the wiki may write it: its own name, its alias, the canonical one, in small letters, with a mark."""
        wiki, word = self.wiki, self.random.choice(self.words)
        prefix = self.random.choice(
            [wiki.file, wiki.file_alias, "File", "Image", wiki.file.lower(), f" {wiki.file} ", f"\u200f{wiki.file}"]
        )
        options = self.random.choice([f"{wiki.thumb}|250px", f"{wiki.thumb}|upright=1.2|alt={word}", "left|100x120px", "thumb"])
        ending = self.random.choice(["jpg", "PNG", "svg", "ogg", "djvu"])
        caption = self.random.choice(
            [word, f"[[{word}]] {word}", f"{word} {{{{x|[[{word}|{word}]]}}}}", f"''{word}'' [http://a.org {word}]"]
        )
        return f"[[{prefix}:{word} 1.{ending}|{options}|{caption}]]"

    def block(self) -> str:
        """What stands between paragraphs and is no prose."""
        wiki, word = self.wiki, self.random.choice(self.words)
        return self.random.choice([
            self.image(), self.image() + "\n" + self.image(), wiki.no_toc, "__NOTOC__", "~~~~", "----",
            f"{{| class=wikitable\n|-\n! {word} !! {word}\n|-\n| {word} || [[{word}|{word}]]\n{{|\n| {word}\n|}}\n|}}",
            f"{{| class=wikitable\n! {word} !! {word}\n|-\n| {word} || 200\n",  # left open
            f"<gallery>\n{wiki.file}:{word}.jpg|{word}\n</gallery>", f"{{{{Main|{word}}}}}", "<math>x^2</math>",
            f"{{{{Infobox {word}\n| {word} = <li>{word}<li>{word}\n| a = [[{wiki.file_alias}:x.jpg|250px]]\n| b = {{{{x|y}}}}\n}}}}",
            f"{{{{{wiki.template}:Infobox\n| {word} = {word}\n| a = 5\n",  # left open
            "<br clear=all>", "<table><tr><td>1<td>2</table>", f"<ref>{{{{cite|title={word}}}}}</ref>", "{{DEFAULTSORT:X}}", "<references />",
        ])  # fmt: skip

    def page(self, number: int) -> Page:
        wiki = self.wiki
        parts = [self.block(), self.paragraph(), self.image(), self.paragraph()]
        for level in self.random.choices((2, 3), k=self.random.randint(1, 3)):
            parts += [
                f"{'=' * level} {self.random.choice(self.words)} {'=' * level}",
                self.block(),
                self.paragraph(),
                self.paragraph(),
            ]
        parts += [f"[[{wiki.category}:{word}]]" for word in self.some(2)] + [f"[[{wiki.category_alias}:X|*]]", "[[Category:Y]]"]
        parts += [f"[[{self.other}:X]]", "[[zh-min-nan:X]]", "[[simple:X y]]"]
        return Page(f"{self.words[number % len(self.words)]} {number}", "\n\n".join(parts), self.sentences)


def articles(code: str, count: int) -> list[Page]:
    """Articles in a language, the same ones every time."""
    return [_Writer(code, number).page(number) for number in range(count)]


_MARKUP = {
    "link": r"\[\[|\]\]",
    "template": r"\{\{|\}\}",
    "table": r"\{\||\|\}|^\s*[|!]|\|\||!!",
    "option": r"\|",
    "heading": r"==|^=",
    "emphasis": r"''",
    "tag": r"</?[a-zA-Z][^<>]*>|<!--",
    "width": r"\d ?px\b",
    "file": r"(?i)\w\.(?:jpe?g|png|gif|svg|tiff?|webp|og[gv]|webm|djvu)\b",
    "switch": r"__\w+__",
    "address": r"\[(?:https?:)?//",
    "entity": r"&(?:#\d+|[a-z]+);",
    "signature": "~~~",
    "variant": r"-\{|\}-",
    "parameter": r"^\s*\w+ ?=",
}
_PATTERN = re.compile(
    "|".join(f"(?P<{name}>{pattern.removeprefix('(?i)')})" for name, pattern in _MARKUP.items()), re.MULTILINE | re.I
)


def markup_in(text: str, code: str = "en") -> list[str]:
    """Marks of wikitext that a text holds, by kind: of a text that is prose there are none."""
    found = [str(mark.lastgroup) for mark in _PATTERN.finditer(text)]
    names = {"File", "Image", "Category", "Template", "DEFAULTSORT"}
    if code in WIKIS:
        wiki = WIKIS[code]
        names |= {wiki.file, wiki.file_alias, wiki.category, wiki.category_alias, wiki.template, wiki.user}
        found += ["word of an image"] * len(re.findall(rf"(?<!\w){wiki.thumb}(?!\w)", text))
    spaces = re.findall(rf"(?<!\w)(?:{'|'.join(map(re.escape, sorted(names)))}) ?:(?=\S)", text, re.I)
    return found + ["namespace"] * len(spaces)
