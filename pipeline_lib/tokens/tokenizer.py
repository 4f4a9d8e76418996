"""Stage "tokenizer": a byte-level BPE learned from the training split, or the tokenizer of a given causal language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline_lib.config.data import AdoptedTokenizerConfig, Bos, Delimiting, ShardConfig, TokenizerConfig
from pipeline_lib.config.model import PromptsConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.delimiters import Delimiters, Side
from pipeline_lib.tokens.pair_tokenizer import RESERVED, PairTokenizer
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer, sentence_transformer_tokenizer
from pipeline_lib.tokens.tokenizer_files import bare_tokenizer
from pipeline_lib.tokens.words import repeated_word, without_repeat_step

STAGE = Stage(name="tokenizer", version=1)
SIDE_OF: dict[str, Side] = {"query": "x", "document": "y"}

# parse|Date, HTTP|Server; the upper-case letter is looked for first: 37 us a function instead of 64
CAMEL_HUMP = r"(?=\p{Lu})(?:(?<=[\p{Ll}\p{N}])|(?<=\p{Lu})(?=\p{Lu}\p{Ll}))"
READ_ROWS = 1024
HEARTBEAT_SECONDS = 0.5


def train_tokenizer(store: Store, curated: Artifact, config: TokenizerConfig, progress: Progress = silent) -> Artifact:
    """Learn the merges from the training split: stage "tokenizer".

    Args:
        store: where the artifact goes.
        curated: its part "train" is read, the others never.
        config: vocabulary and normalisation.
        progress: counts texts.

    Raises:
        UserError: the training split is empty.
    """
    part = curated.part("train")

    def make(_: str) -> Outcome:
        key = store.key(STAGE, config, {"train": part.digest})
        made = store.find_part(STAGE.name, key) or _train_part(
            store, key, curated.part_folder("train") / "pairs.parquet", config, progress
        )
        return Outcome(parts=(made,), counts=made.counts, facts=made.facts)

    return store.build(STAGE, config, {"curated": curated}, make)


def adopt_tokenizer(store: Store, causal_lm: Path, delimiters: Delimiting = "distinct", bos: Bos = "auto") -> Artifact:
    """The tokenizer artifact of a given causal-LM folder: `PairTokenizer.from_causal_lm`, kept under its content.

    A folder of sentence-transformers keeps what its own tokenizer puts around a text, whatever `delimiters` says.

    Raises:
        UserError: the folder has no readable tokenizer.json, or no sequence start where one is asked for.
    """
    if is_sentence_transformer(causal_lm):
        tokenizer = sentence_transformer_tokenizer(causal_lm)
    else:
        tokenizer = PairTokenizer.from_causal_lm(causal_lm, bos).delimited(delimiters)
    content = hashlib.sha256(tokenizer.tokenizer.to_str().encode())
    content.update(json.dumps(tokenizer.delimiters.fields).encode())
    config = AdoptedTokenizerConfig(folder=str(causal_lm), content_sha256=content.hexdigest(), delimiters=delimiters, bos=bos)

    def make(key: str) -> Outcome:
        part = store.find_part(STAGE.name, key) or _commit(store, key, tokenizer, Counts())
        return Outcome(parts=(part,), facts=part.facts)

    return store.build(STAGE, config, {}, make)


def prompted(own: Delimiters, prompts: PromptsConfig) -> Delimiters:
    """Delimiters with these prompts in place of their own; what is not set stays."""
    tasks = {task: {SIDE_OF[name]: text for name, text in found.items()} for task, found in prompts.tasks.items()}
    return replace(
        own,
        x_prompt=own.x_prompt if prompts.query is None else prompts.query,
        y_prompt=own.y_prompt if prompts.document is None else prompts.document,
        tasks={**own.tasks, **tasks},
        default_prompt=prompts.default or own.default_prompt,
        include_prompt=own.include_prompt if prompts.include_prompt is None else prompts.include_prompt,
    )


def prompted_tokenizer(store: Store, tokenizer: Artifact, prompts: PromptsConfig, lengths: ShardConfig) -> Artifact:
    """The tokenizer with prompts in place of its own: stage "tokenizer"; the very same where none is set.

    Args:
        lengths: of rows, which a prompt has to leave room in.

    Raises:
        UserError: a prompt leaves none, or cannot be left out of the pooling.
    """
    if not prompts.are_set:
        return tokenizer
    whole = PairTokenizer.load(tokenizer.part_folder())
    own, delimiters = whole.delimiters, prompted(whole.delimiters, prompts)
    if delimiters == own:  # of a start that was made with these
        return tokenizer
    made = PairTokenizer(whole.tokenizer, delimiters)
    longest: dict[Side, int] = {"x": lengths.max_x_tokens, "y": lengths.max_y_tokens}
    for side, most in longest.items():
        for prompt in delimiters.prompts(side):
            made.check_prompt(prompt, side, most)
    if made.left_out() and without_repeat_step(made.tokenizer) is not None:
        raise UserError(
            "prompts.include_prompt false: tokenizer.max_repeats drops a prompt's words that come again, so that they cannot be"
            " told from the text; set one of the two to null"
        )

    def make(key: str) -> Outcome:
        part = store.find_part(STAGE.name, key) or _commit(store, key, made, Counts())
        return Outcome(parts=(part,), facts=part.facts)

    return store.build(STAGE, prompts, {"tokenizer": tokenizer}, make)


def train_bpe(texts: Iterator[str], config: TokenizerConfig) -> PairTokenizer:
    """A tokenizer learned from the texts; the same texts in the same order give the same bytes."""
    tokenizer = Tokenizer(models.BPE())
    # Merges are learned from every occurrence: leaving repeats out first would double the time.
    tokenizer.normalizer = _normalizer(config.model_copy(update={"max_repeats": None}))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
            ]
        )
        if config.punctuation == "drop"
        else pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=list(RESERVED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.normalizer = _normalizer(config)
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = []  # their ids stay in the vocabulary, and text is no longer searched for their names
    return PairTokenizer(bare_tokenizer(fields), Delimiters.single(*range(len(RESERVED)))).delimited(config.delimiters)


def _normalizer(config: TokenizerConfig) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if config.split_identifiers:
        steps.append(normalizers.Replace(Regex(CAMEL_HUMP), " "))
    if config.lower_case:
        steps.append(normalizers.Lowercase())
    kept_in_words = "" if config.split_identifiers else "_"
    to_space = r"\s" + ("_" if config.split_identifiers else "")
    folded = rf"[^\p{{L}}\p{{M}}\p{{N}}{kept_in_words}]+" if config.punctuation == "drop" else f"[{to_space}]+"
    steps += [normalizers.Replace(Regex(folded), " "), normalizers.Strip()]
    if config.max_repeats and config.punctuation != "drop":
        raise UserError("tokenizer.max_repeats counts words between spaces: it needs tokenizer.punctuation 'drop'")
    if config.max_repeats:
        steps.append(normalizers.Replace(Regex(repeated_word(config.max_repeats)), ""))
    return normalizers.Sequence(steps)


def _train_part(store: Store, key: str, pairs: Path, config: TokenizerConfig, progress: Progress) -> Part:
    total = min(2 * pq.ParquetFile(pairs).metadata.num_rows, config.max_training_texts)
    if total == 0:
        raise UserError(f"{pairs}: the training split has no pairs, so there is nothing to learn a tokenizer from")
    seen = [0]

    def texts() -> Iterator[str]:
        for text in _training_texts(pairs, config.max_training_texts):
            seen[0] += 1
            yield text

    with ThreadPoolExecutor(1) as pool:  # the merges are learned inside one call, which reports nothing
        training = pool.submit(train_bpe, texts(), config)
        while wait([training], HEARTBEAT_SECONDS).not_done:
            learning = f"{seen[0]:,} texts" if seen[0] < total else f"{total:,} texts read, learning merges"
            progress(seen[0], total, learning)
        tokenizer = training.result()
    progress(total, total, f"{total:,} texts, {tokenizer.vocab_size:,} ids")
    return _commit(store, key, tokenizer, Counts(n_in=total, n_out=total))


def _training_texts(pairs: Path, limit: int) -> Iterator[str]:
    """x and y in the file's order, which is that of ids and so of a hash: any prefix is a fair sample."""
    n = 0
    for batch in pq.ParquetFile(pairs).iter_batches(READ_ROWS, columns=["x", "y"]):
        for x, y in zip(batch["x"].to_pylist(), batch["y"].to_pylist(), strict=True):
            for text in (x, y):
                if n == limit:
                    return
                n += 1
                yield text


def _commit(store: Store, key: str, tokenizer: PairTokenizer, counts: Counts) -> Part:
    scratch = store.scratch(STAGE.name)
    tokenizer.save(scratch)
    facts = {"vocab_size": tokenizer.vocab_size}
    return store.commit_part(draft_part(STAGE, key, "tokenizer", counts=counts, facts=facts), scratch)
