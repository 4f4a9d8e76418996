"""Headings of sections that hold lists of links and no prose, as the Wikipedias of some thirty languages write them."""

from __future__ import annotations

from unicodedata import normalize

# a language a line, in lower case
_TITLES = """
references|external links|see also|further reading|notes|footnotes|bibliography|sources
referenser|externa länkar|se även|källor|noter|fotnoter|vidare läsning|källhänvisningar|tryckta källor|webbkällor|noter och referenser|källor och referenser
einzelnachweise|weblinks|siehe auch|anmerkungen|fußnoten|belege|anmerkungen und einzelnachweise|einzelnachweise und anmerkungen|quellen und einzelnachweise|quellen und literatur|weiterführende literatur
notes et références|références|liens externes|lien externe|voir aussi|articles connexes|article connexe|bibliographie|sources et références|références et notes|notes et sources|pour approfondir
referencias|enlaces externos|véase también|bibliografía|notas|notas y referencias|referencias y notas|lecturas adicionales|bibliografía adicional
note|collegamenti esterni|voci correlate|altri progetti|bibliografia|note esplicative|fonti
referências|ligações externas|ver também|notas e referências|leitura adicional|leituras adicionais|links externos|notas de rodapé|referências bibliográficas
externe links|externe link|zie ook|referenties|voetnoten|noten|bronvermelding|bronnen en referenties|bronnen, noten en referenties|bronnen, noten en/of referenties|verder lezen
przypisy|linki zewnętrzne|zobacz też
примечания|ссылки|см. также|сноски|библиография|ссылки и примечания|примечания и ссылки
примітки|посилання|див. також|виноски|бібліографія|джерела|джерела та література|примітки та посилання
externí odkazy|související články|poznámky a reference|poznámky
lähteet|aiheesta muualla|katso myös|viitteet|kirjallisuutta|huomautukset|viitteet ja lähteet|lähteet ja viitteet
referanser|eksterne lenker|se også|kilder|referansar|eksterne lenkjer|sjå òg|noter og referanser|kilder og referanser
referencer|eksterne henvisninger|henvisninger|fodnoter|noter og referencer|kilder og referencer|kilder og henvisninger
jegyzetek|források|további információk|kapcsolódó szócikkek|külső hivatkozások|hivatkozások|lásd még|ajánlott irodalom
referințe|referinţe|legături externe|vezi și|vezi şi|bibliografie|note și referințe|lectură suplimentară|note bibliografice|surse
kaynakça|dış bağlantılar|ayrıca bakınız|notlar|kaynaklar|dipnotlar|konuyla ilgili yayınlar|notlar ve kaynakça|bibliyografya
παραπομπές|εξωτερικοί σύνδεσμοι|δείτε επίσης|υποσημειώσεις|βιβλιογραφία|σημειώσεις|περαιτέρω ανάγνωση
脚注|出典|参考文献|外部リンク|関連項目|注釈|注釈・出典|脚注・出典|関連書籍|関連文献
參考文獻|参考资料|參考資料|外部链接|外部連結|外部鏈接|参见|參見|参看|參看|注释|註釋|注解|註解|腳註|相关条目|相關條目|延伸阅读|延伸閱讀|扩展阅读|参考来源|參考來源|备注|備註|资料来源|資料來源
각주|외부 링크|같이 보기|참고 문헌|참고문헌|참고 자료|주해|출처|주석|더 읽어보기
مراجع|المراجع|وصلات خارجية|روابط خارجية|انظر أيضا|انظر أيضًا|انظر أيضاً|اقرأ أيضا|مصادر|المصادر|هوامش|الهوامش|مراجع ومصادر
הערות שוליים|קישורים חיצוניים|ראו גם|ראה גם|לקריאה נוספת|ביאורים|ביבליוגרפיה
referències|enllaços externs|vegeu també|notes i referències
tham khảo|liên kết ngoài|xem thêm|chú thích
منابع|پانویس|جستارهای وابسته|پیوند به بیرون|پیوندهای بیرونی|یادداشت‌ها
referensi|pranala luar|lihat pula|lihat juga|catatan kaki|bacaan lanjutan|daftar pustaka
външни препратки|вижте също|референце|спољашње везе|види још|напомене|vanjske poveznice|bilješke
referencie|externé odkazy|pozri aj|iné projekty|referencoj|eksteraj ligiloj|vidu ankaŭ|erreferentziak|kanpo estekak
อ้างอิง|แหล่งข้อมูลอื่น|ดูเพิ่ม|सन्दर्भ|संदर्भ|बाहरी कड़ियाँ|इन्हें भी देखें
"""  # noqa: E501 - a language a line
# words that a section of prose may have as its title too, deeper in a page: springs, or the literature of a country
_TOP_TITLES = """
literatur|litteratur|quellen|annexes|fuentes|fontes|literatuur|bronnen|literatura|bibliografia|uwagi|źródła|литература|источники
література|reference|odkazy|prameny|kirjallisuus|irodalom|πηγές|αναφορές|注|参照|来源|來源|ملاحظات|מקורות|catatan|източници|бележки|poveznice|izvori
комментарии|ikus, gainera|fonts
"""
_TOP_LEVEL = 2


def _titles(table: str) -> frozenset[str]:
    return frozenset(normalize("NFC", title).casefold() for line in table.split("\n") for title in line.split("|") if title)


_ANYWHERE = _titles(_TITLES)
_AT_THE_TOP = _titles(_TOP_TITLES)


def is_back_matter(heading: str, level: int) -> bool:
    """True for the heading of a section of links: references, see also and the like, in any of the languages.

    Args:
        level: of the heading, 2 for those of a page's own sections.
    """
    title = normalize("NFC", heading).casefold().rstrip(" :")
    return title in _ANYWHERE or (level <= _TOP_LEVEL and title in _AT_THE_TOP)
