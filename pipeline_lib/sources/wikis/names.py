"""Names that a wiki's markup depends on: its namespaces, from the export's own siteinfo, and the codes of other wikis."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple
from unicodedata import normalize

MEDIA, FILE, TEMPLATE, CATEGORY = -2, 6, 10, 14  # keys of namespaces, the same in every wiki

# MediaWiki's own names, which every wiki understands beside those of its language
_CANONICAL = {
    -2: "media", -1: "special", 1: "talk", 2: "user", 3: "user talk", 4: "project|wikipedia", 5: "project talk|wikipedia talk",
    6: "file|image", 7: "file talk|image talk", 8: "mediawiki", 9: "mediawiki talk", 10: "template", 11: "template talk",
    12: "help", 13: "help talk", 14: "category", 15: "category talk", 100: "portal", 118: "draft", 828: "module",
}  # fmt: skip
# Aliases, which no export states, and names for exports without siteinfo; those that are words of other languages are left
# out: a file is known by its ending and its width too.
_FILES = """afbeelding archivo arquivo berkas bestand bild bilde billede datei datoteka dosiero dosya ficheiro fichier fil
fitxategi fitxer fişier fișier fájl gambar grafika hình imagem imagen imatge imaxe immagine irudi kuva kép obrázok pilt
plik resim slika soubor súbor tiedosto tập_tin vaizdas αρχείο εικόνα выява датотека зображення изображение картинка слика
файл קובץ תמונה تصویر صورة ملف پرونده चित्र ภาพ ไฟล์ ファイル 画像 图像 圖像 圖片 文件 档案 檔案 그림 파일"""
_CATEGORIES = """categoria categorie categoría categorìa catégorie kategori kategoria kategorie kategorija kategorio kategoriya
kategória kategooria kateqoriya katégori luokka thể_loại κατηγορία категория категорија категорія катэгорыя санат կատեգորիա
קטגוריה تصنيف رده زمرہ वर्ग श्रेणी বিষয়শ্রেণী শ্রেণী શ્રેણી பகுப்பு వర్గం ವರ್ಗ വർഗ്ഗം หมวดหมู่ კატეგორია カテゴリ 分类 分類 분류"""
# aliases too short to be known in other wikis
_SHORT = {"категория": "к", "categoría": "cat", "categoria": "cat", "קטגוריה": "קט", "קובץ": "קו"}

# Wikipedias by their codes, old spellings included: a link to one of them stands in the margin of the page, not in its text
_LANGUAGES = """aa ab ace ady af ak als alt am ami an ang ann anp ar arc ary arz as ast atj av avk awa ay az azb ba ban bar
bat-smg bbc bcl bdr be be-tarask be-x-old bew bg bh bi bjn blk bm bn bo bpy br bs btm bug bxr ca cbk-zam cdo ce ceb ch cho
chr chy ckb co cr crh cs csb cu cv cy cz da dag de dga din diq dk dsb dtp dty dv dz ee egl el eml en eo epo es et eu ext fa
fat ff fi fiu-vro fj fo fon fr frp frr fur fy ga gag gan gcr gd gl glk gn gom gor got gpe gsw gu guc gur guw gv ha hak haw
he hi hif ho hr hsb ht hu hy hyw hz ia iba id ie ig igl ii ik ilo inh io is it iu ja jam jbo jp jv ka kaa kab kbd kbp kcg
kg kge ki kj kk kl km kn knc ko koi kr krc ks ksh ku kus kv kw ky la lad lb lbe lez lfn lg li lij lld lmo ln lo lrc lt ltg
lv lzh mad mai map-bms mdf mg mh mhr mi min mk ml mn mni mnw mo mos mr mrj ms mt mus mwl my myv mzn na nah nan nap nb nds
nds-nl ne new ng nia nl nn no nov nqo nr nrm nso nup nv ny oc olo om or os pa pag pam pap pcd pcm pdc pfl pi pih pl pms pnb
pnt ps pt pwn qu rki rm rmy rn ro roa-rup roa-tara rsk ru rue rup rw sa sah sat sc scn sco sd se sg sgs sh shi shn si
simple sk skr sl sm smn sn so sq sr srn ss st stq su sv sw syl szl szy ta tay tcy tdd te tet tg th ti tig tk tl tly tn to
tpi tr trv ts tt tum tw ty tyv udm ug uk ur uz ve vec vep vi vls vo vro wa war wo wuu xal xh xmf yi yo yue za zea zgh zh
zh-cfr zh-classical zh-cn zh-min-nan zh-tw zh-yue zu"""
LANGUAGE_CODES = frozenset(_LANGUAGES.split())
# sister projects: a link to one shows its page's name
SISTERS = frozenset(
    "w wikipedia wikt wiktionary s wikisource q wikiquote b wikibooks n wikinews v wikiversity voy wikivoyage c commons d"
    " wikidata m meta mw species wikispecies foundation phab".split()
)
_MEDIA_ENDING = re.compile(
    r"(?i)\.(?:jpe?g|jpe|png|apng|gif|svg|tiff?|webp|avif|bmp|xcf|djvu?|pdf|ogg|oga|ogv|opus|webm|mp[34]|mpe?g|m4[av]|mov|avi"
    r"|mid|midi|wav|flac|stl)\s*$"
)
_WIDTH = re.compile(r"\s*(?:\d{0,5}x)?\d{1,5}\s?px\s*")
_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202b\u202c\u00ad\ufeff"))  # directions and the like, which titles ignore


def folded(name: str) -> str:
    """A namespace's or template's name as wikis compare them: without case, underscores and marks of direction."""
    plain = " ".join(name.translate(_MARKS).replace("_", " ").split()).casefold()
    return plain if plain.isascii() else normalize("NFC", plain).replace("i\u0307", "i")  # of the Turkish İ


class Link(NamedTuple):
    """What a reader sees of a link, and the kind of what is left out where that is nothing."""

    text: str
    omitted: str = ""


class WikiNames:
    """Namespaces of one wiki by name: its own, the canonical ones and known aliases.

    Args:
        own: names that the export's siteinfo gives each key; they count before all others.
    """

    def __init__(self, own: Mapping[int, Iterable[str]] | None = None) -> None:
        canonical = {key: names.split("|") for key, names in _CANONICAL.items()}
        aliases = {FILE: _FILES.split(), CATEGORY: _CATEGORIES.split()}
        self.keys: dict[str, int] = {}
        for known in (aliases, canonical, own or {}):
            self.keys |= {folded(name): key for key, names in known.items() for name in names if folded(name)}
        for names in (own or {}).values():
            self.keys |= {_SHORT[name]: self.keys[name] for name in map(folded, names) if name in _SHORT}

    def split(self, title: str) -> tuple[int | None, str]:
        """The key of a title's namespace and the name in it; None where what stands before a colon names none."""
        prefix, colon, rest = title.partition(":")
        key = self.keys.get(folded(prefix)) if colon else 0
        return (key, rest.strip()) if colon and key is not None else (None if colon else 0, title)

    def link(self, parts: list[str]) -> Link:
        """What a reader of the page sees of a link.

        Args:
            parts: what its pipes cut it into: the title and the text, or the title, the options and the caption.
        """
        title, text = parts[0].strip(), parts[-1].strip() if len(parts) > 1 else None
        shown = title.startswith(":")  # [[:File:x.jpg]] is a link to it
        title = title.lstrip(": ")
        key, name = self.split(title)
        if not shown:
            if key == FILE or (
                key != MEDIA and ":" in title and (_MEDIA_ENDING.search(title) or any(map(_WIDTH.fullmatch, parts[1:])))
            ):
                return Link("", "media")
            if key == CATEGORY:
                return Link("", "categories")
        if text:
            return Link(text)
        if text is not None and name:  # the pipe trick: [[Mercury (planet)|]]
            return Link((name.partition(":")[2].strip() or name).partition(" (")[0])
        if key:
            return Link("", "media") if key == MEDIA else Link(name)
        return self._of_another_wiki(title, shown) if key is None else Link(title.lstrip("#"))

    def _of_another_wiki(self, title: str, shown: bool) -> Link:
        """A link without a text, by the prefix of its title: a language's code, a sister project's, or mere words."""
        prefix, _, rest = title.partition(":")
        if prefix.strip() in LANGUAGE_CODES:
            return Link(rest.strip()) if shown else Link("", "languages")
        return Link(self._of_another_wiki(rest, True).text if ":" in rest else rest) if prefix in SISTERS else Link(title)
