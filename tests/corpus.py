"""A generated folder of code and prose: real Python and Markdown, small, different in every package, equal on every machine."""

from __future__ import annotations

import random
from pathlib import Path

NOUNS = (
    "anchor basket candle dragon engine feather garden harbor island jacket kettle ladder magnet needle orchard pencil "
    "quarry ribbon saddle tunnel umbrella valley window yonder zephyr bridge carpet donkey eagle fountain glacier hammer "
    "insect jungle keyboard lantern meadow nectar ocean pebble quiver rocket shelter teapot violin wagon axle beacon "
    "canyon dagger ember falcon goblet hollow ivory jewel knight lagoon mirror nutmeg oyster parcel quilt raven scarf"
).split()
VERBS = "collect measure compare rotate merge filter sort shift count label group reduce expand trim balance index".split()
QUALITIES = "quickly carefully once twice lazily safely in order by weight by length from the left for every day".split()

PLANTED_NAME = "parse_zeppelin_manifest"
PLANTED_DOC = "Parse the passenger manifest of a zeppelin into rows of cabin and name."

FUNCTION = '''
def {verb}_{noun}_{other}(values, limit={number}):
    """{Verb} the {noun} of each {other} {quality}, up to {number} entries."""
    {noun}_total = 0
    chosen = []
    for {other}_item in values:
        if len(chosen) >= limit:
            break
        {noun}_total += len(str({other}_item)) * {number}
        chosen.append(({noun}_total, {other}_item))
    return chosen, {noun}_total
'''

PLANTED = f'''
def {PLANTED_NAME}(text):
    """{PLANTED_DOC}"""
    rows = []
    for line in text.splitlines():
        cabin, _, passenger = line.partition(":")
        rows.append((cabin.strip(), passenger.strip()))
    return rows
'''


def write_corpus(folder: Path, packages: int = 30, functions: int = 12, seed: int = 7) -> Path:
    """Write `packages` sub-folders, each a Python module and a README; the planted function is in the first."""
    chance = random.Random(seed)
    for number in range(packages):
        package = folder / f"{NOUNS[number % len(NOUNS)]}_{number:02d}"
        package.mkdir(parents=True)
        words = chance.sample(NOUNS, 12)
        body = "".join(_function(chance, words) for _ in range(functions))
        (package / "core.py").write_text(f'"""Tools of {package.name}."""\n{body}{PLANTED if number == 0 else ""}')
        (package / "README.md").write_text(
            f"# {package.name}\n\n" + "\n\n".join(_paragraph(chance, words) for _ in range(8)) + "\n"
        )
    return folder


def _function(chance: random.Random, words: list[str]) -> str:
    verb, (noun, other) = chance.choice(VERBS), chance.sample(words, 2)
    return FUNCTION.format(
        verb=verb,
        Verb=verb.capitalize(),
        noun=noun,
        other=other,
        quality=chance.choice(QUALITIES),
        number=chance.randrange(2, 900),
    )


def _paragraph(chance: random.Random, words: list[str]) -> str:
    return " ".join(
        f"The {chance.choice(words)} and the {chance.choice(words)} {chance.choice(VERBS)} {chance.choice(QUALITIES)} "
        f"near the {chance.choice(words)}, {chance.randrange(2, 99)} times."
        for _ in range(chance.randrange(3, 6))
    )
