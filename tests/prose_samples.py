"""Sentences in the world's scripts, and texts of any length that are drawn from them."""

# ruff: noqa: RUF001
from __future__ import annotations

import random

# Each ends as its script ends a sentence. Between two there is a space where the script writes one.
SENTENCES: dict[str, tuple[str, ...]] = {
    "english": ("The ship is in harbour.", "Who lives there?", '"Come in!" she said.', "Rain fell all night, and it froze."),
    "russian": ("Корабль стоит в гавани.", "Кто там живёт?", "«Войдите!» — сказала она.", "Всю ночь шёл дождь, и похолодало."),
    "greek": ("Το πλοίο είναι στο λιμάνι.", "Ποιος μένει εκεί;", "«Περάστε!» είπε εκείνη.", "Έβρεχε όλη τη νύχτα."),
    "armenian": ("Նավը կանգնած է նավահանգստում։", "Ով է ապրում այնտեղ։", "Ամբողջ գիշեր անձրև էր գալիս։"),
    "georgian": ("გემი ნავსადგურში დგას.", "ვინ ცხოვრობს იქ?", "მთელი ღამე წვიმდა, და ციოდა."),
    "hebrew": ("הָאֳנִיָּה עוֹגֶנֶת בַּנָּמֵל.", "מי גר שם?", "כל הלילה ירד גשם, והיה קר."),
    "arabic": ("السَّفِينَةُ فِي المِينَاءِ.", "من يسكن هناك؟", "هطل المطر طوال الليل، وكان الجو باردا."),
    "urdu": ("جہاز بندرگاہ میں کھڑا ہے۔", "وہاں کون رہتا ہے؟", "ساری رات بارش ہوتی رہی۔"),
    "hindi": ("जहाज़ बंदरगाह में खड़ा है।", "वहाँ कौन रहता है?", "रात भर बारिश होती रही, और ठंड थी।"),
    "bengali": ("জাহাজটি বন্দরে দাঁড়িয়ে আছে।", "সেখানে কে থাকে?", "সারা রাত বৃষ্টি হয়েছিল।"),
    "tamil": ("கப்பல் துறைமுகத்தில் நிற்கிறது.", "அங்கே யார் வசிக்கிறார்கள்?", "இரவு முழுவதும் மழை பெய்தது."),
    "telugu": ("ఓడ ఓడరేవులో ఉంది.", "అక్కడ ఎవరు నివసిస్తున్నారు?", "రాత్రంతా వర్షం కురిసింది."),
    "sinhala": ("නැව වරායේ ඇත.", "එහි ජීවත් වන්නේ කවුද?", "මුළු රාත්‍රිය පුරාම වැස්ස වැටුණා."),
    "amharic": ("መርከቡ በወደቡ ላይ ቆሟል።", "እዚያ የሚኖረው ማን ነው?", "ሌሊቱን ሙሉ ዝናብ ዘነበ።"),
    "korean": ("배가 항구에 정박해 있다.", "그곳에는 누가 삽니까?", "밤새 비가 내렸고 추웠다."),
    "chinese": ("这艘船停在港口里。", "谁住在那里？", "她说：“请进！”", "整夜都在下雨，天气很冷。"),
    "traditional": ("這艘船停在港口裡。", "誰住在那裡？", "「請進！」她說道。", "整夜都在下雨，天氣很冷。"),
    "japanese": ("船は港に停泊しています。", "そこには誰が住んでいますか？", "「どうぞ！」と言った。", "ｺｰﾋｰを飲んで寝た｡"),
    "thai": ("เรือจอดอยู่ที่ท่าเรือ", "ใครอาศัยอยู่ที่นั่น", "ฝนตกตลอดทั้งคืนและอากาศหนาวมาก"),
    "lao": ("ເຮືອຈອດຢູ່ທີ່ທ່າເຮືອ", "ໃຜອາໄສຢູ່ທີ່ນັ້ນ", "ຝົນຕົກຕະຫຼອດຄືນ"),
    "khmer": ("កប៉ាល់ចតនៅកំពង់ផែ។", "តើអ្នកណារស់នៅទីនោះ?", "ភ្លៀងធ្លាក់ពេញមួយយប់។"),
    "burmese": ("သင်္ဘောသည် ဆိပ်ကမ်းတွင် ရပ်နားထားသည်။", "ထိုနေရာတွင် မည်သူနေထိုင်သနည်း။", "တစ်ညလုံး မိုးရွာခဲ့သည်။"),
    "tibetan": ("གྲུ་གཟིངས་དེ་གྲུ་ཁར་བཞག་ཡོད།", "དེར་སུ་ཞིག་སྡོད་ཀྱི་ཡོད།", "མཚན་གང་པོར་ཆར་པ་བབས་སོང་།"),
    "mixed": ("用Python写的程序有3.5倍快👨‍👩‍👧。", "It runs on Linux.", "これはAPIですか？", "ใช้ Linux ครับ"),
}  # fmt: skip
UNSPACED = frozenset(("chinese", "traditional", "japanese", "thai", "lao", "khmer", "burmese", "tibetan"))
_SOLID = frozenset(("chinese", "traditional", "japanese"))  # no space after a sentence


def prose(language: str, sentences: int, seed: int = 0) -> str:
    """One paragraph of so many sentences."""
    generator = random.Random(f"{language}{seed}")
    return ("" if language in _SOLID else " ").join(generator.choice(SENTENCES[language]) for _ in range(sentences))


# What texts are made of that are to differ: no sentence comes twice.
_ALPHABETS = {
    "chinese": (0x4E00, 2_000), "japanese": (0x3042, 80), "thai": (0xE01, 46), "korean": (0xAC00, 2_000), "lao": (0xE99, 7),
    "khmer": (0x1780, 34), "burmese": (0x1000, 33), "tibetan": (0xF49, 32),
}  # fmt: skip


def letters(language: str, n: int, seed: int) -> list[str]:
    """So many characters drawn at random, the same ones every time."""
    generator = random.Random(f"{language}{seed}")
    first, size = _ALPHABETS[language]
    return [chr(first + generator.randrange(size)) for _ in range(n)]
