# ruff: noqa: RUF001, E501 - scripts of all languages, pages as they are
"""Pages as the web has them, each with its paragraphs and with what stands around them."""

from __future__ import annotations

from typing import NamedTuple


class Page(NamedTuple):
    """HTML, the paragraphs that it is read for, and words of its chrome that no text may hold."""

    html: str
    paragraphs: tuple[str, ...]
    chrome: tuple[str, ...]


NAVIGATION = """<nav><ul><li><a href="/">Home</a></li><li><a href="/a">About us</a></li><li><a href="/c">Contact</a></li></ul></nav>
<div class="menu"><a href="/1">World</a> <a href="/2">Politics</a> <a href="/3">Business</a> <a href="/4">Sport</a></div>"""
CONSENT = """<div id="gdpr"><p>We use cookies and similar technologies to improve your experience on our site.</p>
<p>By clicking Accept you agree to the storing of cookies on your device.</p><button>Accept all</button></div>"""
FOOTER = """<div class="foot"><p>© 2024 Example Media Ltd. All rights reserved.</p>
<p><a href="/p">Privacy policy</a> | <a href="/t">Terms of use</a> | <a href="/c">Cookie settings</a></p></div>"""
SIDE = """<div class="right"><h3>Most read</h3><ul><li><a href="/x1">Ten things you did not know about bread.</a></li>
<li><a href="/x2">Why the bridge was closed again on Sunday.</a></li><li><a href="/x3">Our guide to the best walks of the coast.</a></li></ul></div>"""


def page(body: str, before: str = NAVIGATION + CONSENT, after: str = SIDE + FOOTER, language: str = "en") -> str:
    """A whole document."""
    head = '<head><meta charset="utf-8"><title>A page</title></head>'
    return f'<!DOCTYPE html><html lang="{language}">{head}<body>{before}{body}{after}</body></html>'


def tagged(paragraphs: tuple[str, ...]) -> str:
    """Each paragraph as an element of its own."""
    return "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)


_NEWS = (
    "The old stone bridge over the river will be closed to traffic from Monday, the city council said on Friday.",
    "Engineers found cracks in two of its five arches during an inspection in the spring, and the repairs are expected to"
    " take at least eight months.",
    "“We know that this is hard for the shops on the eastern bank,” said the mayor. “But nobody wants to wait for an accident.”",
    "Buses will be sent over the northern bridge, which adds about ten minutes to the way into the centre.",
    "The work costs four million, half of which comes from a national fund for monuments.",
    "A footbridge of steel, hired for the time of the work, is to open in two weeks.",
)
_FORUM = (
    "My sourdough does not rise any more since the weather turned cold, although I feed it twice a day as before.",
    "That is normal in winter. Put the jar in the oven with only the light on, and give it a few hours more.",
    "I had the same trouble last year and solved it with a warmer flour mix, half of it whole rye.",
    "Thank you both, the trick with the oven light worked on the first night and the bread was fine.",
)
_SHOP = (
    "This kettle boils a litre of water in under three minutes and switches itself off when the water is hot.",
    "Its handle stays cool, the lid opens with one hand, and the filter can be taken out and washed.",
    "We have used it every day for a year in our own kitchen, and it still looks like new.",
)
_RECIPE = (
    "My grandmother made this soup on every Sunday in autumn, when the pumpkins in her garden were ripe.",
    "It is best on the second day, so make enough of it and keep the rest in a cold place overnight.",
    "Cut the pumpkin into cubes and roast them in the oven for forty minutes until the edges turn brown.",
    "Fry the onions in butter on a low flame, add the roasted pumpkin and the stock, and let it simmer for a while.",
    "Take it off the flame, blend it until it is smooth, and stir in the cream before you serve it.",
)
_DOCS = (
    "The reader opens a file, finds out how it is compressed, and yields one record after the other.",
    "A record that is damaged is counted and skipped, so that a single bad byte never stops a whole run.",
    "Call it with a path and a set of limits, which say how much memory a single record may take.",
    "The limits are checked before anything is decompressed, which makes it safe to read files of strangers.",
)
_GERMAN = (
    "Die alte Brücke über den Fluss wird ab Montag für den Verkehr gesperrt, teilte die Stadtverwaltung am Freitag mit.",
    "Bei einer Prüfung im Frühjahr fanden Ingenieure Risse in zwei der fünf Bögen, und die Arbeiten dauern acht Monate.",
    "Die Busse fahren über die Nordbrücke, was den Weg in die Innenstadt um etwa zehn Minuten verlängert.",
    "Die Kosten von vier Millionen Euro trägt zur Hälfte ein Fonds des Bundes für Denkmäler.",
)
_CHINESE = (
    "市政府星期五宣布，横跨河流的古老石桥将从星期一起禁止车辆通行，预计维修时间至少八个月。",
    "工程师在春季的检查中发现五个桥拱中有两个出现裂缝，必须尽快修复，否则可能发生危险。",
    "公共汽车将改走北桥，进入市中心的时间大约会增加十分钟，市民对此表示理解。",
    "这项工程耗资四百万，其中一半来自国家文物保护基金，其余由市政府承担。",
)
_ARABIC = (
    "أعلن مجلس المدينة يوم الجمعة أن الجسر الحجري القديم فوق النهر سيغلق أمام حركة المرور ابتداء من يوم الاثنين.",
    "وجد المهندسون شقوقا في قوسين من أقواسه الخمسة خلال فحص في الربيع، ومن المتوقع أن تستغرق الإصلاحات ثمانية أشهر.",
    "ستمر الحافلات فوق الجسر الشمالي، مما يضيف نحو عشر دقائق إلى الطريق المؤدي إلى وسط المدينة.",
    "تبلغ تكلفة العمل أربعة ملايين، يأتي نصفها من صندوق وطني لحماية الآثار القديمة.",
)
_RUSSIAN = (
    "Старый каменный мост через реку будет закрыт для движения с понедельника, сообщил в пятницу городской совет.",
    "Весной инженеры нашли трещины в двух из пяти арок, и ремонт займёт не меньше восьми месяцев.",
    "Автобусы поедут по северному мосту, и дорога в центр станет длиннее примерно на десять минут.",
    "Работы стоят четыре миллиона, половину из которых даёт государственный фонд охраны памятников.",
)
_THAI = (
    "เทศบาลเมืองประกาศเมื่อวันศุกร์ว่าสะพานหินเก่าข้ามแม่น้ำจะปิดการจราจรตั้งแต่วันจันทร์เป็นต้นไปเป็นเวลาอย่างน้อยแปดเดือน",
    "วิศวกรพบรอยร้าวในซุ้มสองซุ้มจากห้าซุ้มระหว่างการตรวจสอบในฤดูใบไม้ผลิและต้องซ่อมแซมโดยเร็วที่สุด",
)
_HINDI = (
    "नगर परिषद ने शुक्रवार को कहा कि नदी पर बना पत्थर का पुराना पुल सोमवार से यातायात के लिए बंद रहेगा।",
    "इंजीनियरों को वसंत में हुई जाँच के दौरान पाँच में से दो मेहराबों में दरारें मिलीं, और मरम्मत में आठ महीने लगेंगे।",
    "बसें उत्तरी पुल से होकर जाएँगी, जिससे शहर के केंद्र तक पहुँचने में लगभग दस मिनट अधिक लगेंगे।",
)
_JAPANESE = (
    "市議会は金曜日、川に架かる古い石橋を月曜日から少なくとも八か月のあいだ通行止めにすると発表した。",
    "春の点検で、五つのアーチのうち二つにひび割れが見つかったため、修理が必要になったという。",
    "バスは北の橋を通ることになり、中心部までの時間はおよそ十分長くなる見込みである。",
)
_KOREAN = (
    "시의회는 금요일에 강을 가로지르는 오래된 돌다리의 통행을 월요일부터 적어도 여덟 달 동안 막는다고 밝혔다.",
    "봄에 한 점검에서 다섯 개의 아치 가운데 두 개에서 금이 발견되어 수리가 꼭 필요하다고 한다.",
    "버스는 북쪽 다리로 돌아가며, 시내까지 가는 시간은 약 십 분쯤 더 걸릴 것으로 보인다.",
)


def _post(user: str, text: str, number: int) -> str:
    return f"""<div class="post"><div class="who"><b>{user}</b><br>Senior Member<br>Join Date: Jan 2009<br>Posts: 1,{number}12</div>
<div class="when">03-1{number}-2011, 09:{number}5 PM</div><p>{text}</p><div class="sig">Reply With Quote</div>
<div><a href="#">Report</a> <a href="#">Quote</a> <a href="#">Thanks</a></div></div>"""


FORUM_FOOT = """<div><p>Thread Tools | Search this Thread | Display Modes</p><p>You may not post new threads.</p>
<p>You may not post replies.</p><p>You must be logged in to post a comment.</p>
<p>All times are GMT -5. The time now is 11:20 AM.</p><p>Powered by vBulletin Version 3.8.4</p></div>"""
SHOP_FOOT = """<ul><li>Colour: black</li><li>Weight: 1.2 kg</li><li>Power: 2200 W</li><li>SKU 2231-9</li></ul>
<p>Add to cart</p><p>$ 39.90</p><p>In stock</p><p>Free shipping on all orders over 50 dollars.</p>
<h3>Customers also bought</h3><p>Toaster Deluxe 3000</p><p>Coffee Grinder Pro</p><p>Glass Tea Pot with Lid</p>
<p>Sign up for our newsletter and get ten percent off your first order.</p>"""
INGREDIENTS = """<h2>Ingredients</h2><ul><li>1 kg pumpkin</li><li>2 onions</li><li>1 l stock</li><li>200 ml cream</li>
<li>salt and pepper</li></ul>"""
COMMENT_FORM = """<h3>Leave a reply</h3><p>Your email address will not be published. Required fields are marked *</p>
<form><label>Name *</label><input><label>Email *</label><input><button>Post comment</button></form>"""

PAGES: dict[str, Page] = {
    "news": Page(
        page(f"<article><h1>Old bridge to close</h1><p>By Jane Doe, 12 March 2021, 09:15</p>{tagged(_NEWS)}</article>"),
        _NEWS,
        ("Jane Doe", "cookies", "All rights reserved", "Politics", "Ten things you did not"),
    ),
    "forum": Page(
        page(
            "<h1>Sourdough in winter</h1>"
            + "".join(
                _post(user, text, n) for n, (user, text) in enumerate(zip(("ann7", "Bo", "cy", "ann7"), _FORUM, strict=True))
            )
            + FORUM_FOOT
        ),
        _FORUM,
        ("Join Date", "Reply With Quote", "You may not post", "vBulletin", "logged in", "Senior Member", "09:15"),
    ),
    "shop": Page(
        page(f"<div class='product'><h1>Kettle Quick 2</h1>{tagged(_SHOP)}{SHOP_FOOT}</div>"),
        _SHOP,
        ("Add to cart", "Free shipping", "Toaster Deluxe", "newsletter", "SKU"),
    ),
    "recipe": Page(
        page(
            f"<article><h1>Pumpkin soup</h1>{tagged(_RECIPE[:2])}{INGREDIENTS}<h2>Method</h2>"
            f"<ol>{''.join(f'<li>{step}</li>' for step in _RECIPE[2:])}</ol>{COMMENT_FORM}</article>"
        ),
        _RECIPE,
        ("email address", "Post comment", "1 kg pumpkin"),
    ),
    "docs": Page(
        page(
            f"<main><h1>Reading</h1>{tagged(_DOCS[:2])}<pre>for record in read(path):\n    print(record)</pre>{tagged(_DOCS[2:])}"
            "<table><tr><th>Name</th><th>Unit</th></tr><tr><td>max_bytes</td><td>bytes</td></tr></table></main>",
            before="<div class='toc'><a href='#1'>Reading</a><a href='#2'>Writing</a><a href='#3'>API reference</a></div>",
            after="<p>This page was last updated on 3 May 2022.</p><p>Previous page</p><p>Next page</p>",
        ),
        _DOCS,
        ("last updated", "API reference", "Next page"),
    ),
    "layout in tables": Page(
        page(
            f"<table><tr><td><a href=1>Home</a><br><a href=2>News</a></td><td>{tagged(_NEWS)}</td></tr></table>",
            before="",
            after="",
        ),
        _NEWS,
        ("Home",),
    ),
    "breaks": Page(page(f"<div>{'<br><br>'.join(_NEWS)}</div>", before="", after=FOOTER), _NEWS, ("All rights",)),
    "German": Page(
        page(
            f"<article><h1>Brücke wird gesperrt</h1>{tagged(_GERMAN)}</article>",
            before="<div><p>Wir verwenden Cookies, um Ihnen das beste Erlebnis auf unserer Website zu bieten.</p></div>",
            after="<p>Alle Rechte vorbehalten.</p><p>Impressum</p><p>Datenschutzerklärung</p>",  # codespell:ignore alle
            language="de",
        ),
        _GERMAN,
        ("Cookies", "Rechte vorbehalten", "Impressum"),
    ),
    "Chinese": Page(
        page(
            f"<article><h1>古桥将封闭</h1>{tagged(_CHINESE)}</article>",
            before="<div><a href=1>首页</a> <a href=2>新闻</a> <a href=3>体育</a></div><p>本网站使用cookie以改善您的体验。</p>",
            after="<p>版权所有 未经许可不得转载。</p>",
            language="zh",
        ),
        _CHINESE,
        ("首页", "cookie", "版权所有"),
    ),
    "Arabic": Page(
        page(
            f"<article><h1>إغلاق الجسر القديم</h1>{tagged(_ARABIC)}</article>",
            before="<div><a href=1>الرئيسية</a> <a href=2>الأخبار</a></div>",
            after="<p>جميع الحقوق محفوظة.</p>",
            language="ar",
        ),
        _ARABIC,
        ("الرئيسية", "الحقوق محفوظة"),
    ),
    "Russian": Page(
        page(f"<article><h1>Мост закроют</h1>{tagged(_RUSSIAN)}</article>", before="", after="<p>Все права защищены.</p>"),
        _RUSSIAN,
        ("права защищены",),
    ),
    "Hindi": Page(page(f"<article><h1>पुल बंद</h1>{tagged(_HINDI)}</article>", before="", after=FOOTER), _HINDI, ("rights",)),
    "Japanese": Page(
        page(f"<article><h1>古い橋</h1>{tagged(_JAPANESE)}</article>", before="", after=FOOTER), _JAPANESE, ("rights",)
    ),
    "Korean": Page(page(f"<article><h1>다리</h1>{tagged(_KOREAN)}</article>", before="", after=FOOTER), _KOREAN, ("rights",)),
    "Thai": Page(page(f"<article><h1>ปิดสะพาน</h1>{tagged(_THAI)}</article>", before="", after=""), _THAI, ()),
}

_OFFERS = (
    "cheap watches",
    "loans without papers",
    "casino bonus",
    "free ringtones",
    "diet pills",
    "essay writing",
    "used cars",
)
NO_PROSE: dict[str, str] = {
    "links in sentences": page(
        "<div>"
        + "".join(f'<p><a href="/{n}">Click to see our best offers of {offer} in your city today.</a></p>' for n, offer in enumerate(_OFFERS))
        + "</div>"
    ),
    "links and keywords": page(
        "<div>" + "<br>".join(f"<a href='/{n}'>{offer}</a> - {offer}, {offer} online, buy {offer}" for n, offer in enumerate(_OFFERS)) + "</div>"
    ),
    "teasers": page(
        "".join(f"<div><h2><a href='/{n}'>All about {o}</a></h2><p>Read how the people of our town found out about {o} and…</p></div>"
                for n, o in enumerate(_OFFERS))
    ),
    "cookie wall": page(
        "<main><h1>Before you continue</h1><p>We and our 812 partners store and access cookies on your device to improve our ads.</p>"
        "<p>You can change your cookie settings at any time in our privacy policy.</p><p>Accept all</p><p>Reject all</p>"
        "<p>Please enable JavaScript in your browser to continue.</p></main>"
    ),
    "listing": page(
        "<table>" + "".join(f"<tr><td>Topic {n}</td><td>{o.title()}</td><td>{n * 7}</td><td>03-0{n}-2011 10:3{n}</td></tr>"
                            for n, o in enumerate(_OFFERS, 1)) + "</table>"
    ),
    "names": page("<main>" + "".join(f"<p>Dr. {a} Miller, Professor of {b} Studies, University of {a}ton.</p>"
                                     for a, b in zip("Ada Bob Cas Dan Eva Flo Gil".split(), "Art Law Sea Sky Sun War Tax".split(), strict=True))
                  + "</main>"),
}  # fmt: skip
