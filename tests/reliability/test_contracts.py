"""Bad data stops a run before it costs anything, says why, and never passes unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from unit.data_contracts.rows import bundle, extracted, token_row, tokens_table

from data_contracts import validate as validate_module
from data_contracts.check_shards import check_shards
from data_contracts.schemas import SPLITS
from data_contracts.validate import validate
from data_contracts.verdicts import RowsRejected, verdict_rows
from pipeline_lib.config.data import ContractConfig, CurateConfig, ShardConfig, TokenizerConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.errors import ContractViolation, CorruptArtifact
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import RESERVED

CONFIG = ContractConfig(max_quarantined_share=0.1, min_rows_for_share=30)


def spoil(pairs: list[dict[str, Any]], number: int) -> None:
    for row in pairs[:number]:
        row["line"] = 0


def test_a_part_over_the_threshold_fails_with_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    bundles = {label: bundle(label, 20) for label in ("good-a", "bad", "good-b")}
    spoil(bundles["bad"][1], 7)  # of 20 documents and 40 pairs
    bundles["bad"][1][39]["view"] = ""
    before = extracted(store, bundles)
    with pytest.raises(RowsRejected) as caught:
        validate(store, before, CONFIG)
    message = str(caught.value)
    assert message.startswith(
        "validate: part 'bad': 8 of 60 rows (13.3%) break their contract, at most 10.0% may; "
        "commonest: line_below_one 7, view_malformed 1; every row and reason: "
    )
    assert message.endswith(str(caught.value.report)) and "\n" not in message
    report = caught.value.report.read_text()
    assert "| bad | 60 | 8 | 13.33% | 0 | line_below_one 7, view_malformed 1 |" in report
    assert "got line=0, expected a line number, from 1" in report
    assert len(list(tmp_path.glob("validate/parts/*/verdict.json"))) == 3
    assert not list(tmp_path.glob("validate/*/manifest.json"))

    def never(*_: Any) -> None:
        raise AssertionError("a part was validated again")

    monkeypatch.setattr(validate_module, "validate_parts", never)
    with pytest.raises(ContractViolation, match="part 'bad'"):
        validate(store, before, CONFIG)


def test_a_part_at_the_threshold_passes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    documents, pairs = bundle("pkg", 20)
    spoil(pairs, 6)
    artifact = validate(store, extracted(store, {"pkg": (documents, pairs)}), CONFIG)
    assert artifact.manifest.counts.quarantined == 6
    assert "Contracts: kept" in (artifact.folder / "verdict.md").read_text()


def test_small_parts_are_judged_together(tmp_path: Path) -> None:
    store = Store(tmp_path)
    bundles = {f"pkg-{number:02}": bundle(f"pkg-{number:02}", 2) for number in range(10)}  # 6 rows each
    for number in range(6):
        spoil(bundles[f"pkg-{number:02}"][1], 1)
    assert validate(store, extracted(store, bundles), CONFIG).manifest.counts.quarantined == 6
    spoil(bundles["pkg-09"][1], 1)
    with pytest.raises(RowsRejected, match=r"10 parts of under 30 rows together: 7 of 60 rows \(11\.7%\)"):
        validate(store, extracted(store, bundles), CONFIG)


def test_one_bad_row_of_a_tiny_set_is_no_verdict(tmp_path: Path) -> None:
    store = Store(tmp_path)
    documents, pairs = bundle("pkg", 1)
    spoil(pairs, 1)
    assert validate(store, extracted(store, {"pkg": (documents, pairs)}), CONFIG).manifest.counts.n_out == 1


def test_a_set_of_mostly_unreadable_files_fails(tmp_path: Path) -> None:
    store = Store(tmp_path)
    columns = {"stage": "extract", "source": "s", "path": "p", "offset": -1, "record_id": "", "detail": ""}
    unreadable = [{**columns, "reason": "bad_encoding"}] * 6
    with pytest.raises(RowsRejected, match=r"6 of 26 files \(23\.1%\) could not be read.*bad_encoding 6"):
        validate(store, extracted(store, {"pkg": bundle("pkg", 20)}, unreadable), CONFIG)
    artifact = validate(store, extracted(store, {"pkg": bundle("pkg", 20)}, unreadable[:5]), CONFIG)
    assert verdict_rows(artifact)[0]["unreadable"] == 5


def test_a_changed_byte_stops_curation(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = validate(store, extracted(store, {"pkg": bundle("pkg", 12)}), CONFIG)
    path = artifact.paths("pairs.parquet")[0]
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CorruptArtifact, match=r"sha256 is \w{64}, its record says \w{64}"):
        curate(store, artifact, CurateConfig())
    assert not (tmp_path / "curate").exists()


def test_planted_duplicates_are_gone_whatever_the_order_of_the_dumps(tmp_path: Path) -> None:
    """Exact copies of a third of one package, under another name: recall 1, and nothing else is dropped."""
    digests, drops = set(), set()
    for order in (1, -1):
        store = Store(tmp_path / str(order))
        bundles = {f"pkg-{number:02}": bundle(f"pkg-{number:02}", 6) for number in range(12)}
        copied = bundles["pkg-03"][1][:4]
        for mine, theirs in zip(bundles["pkg-07"][1], copied, strict=False):
            mine.update({name: theirs[name] for name in ("x", "y", "x_hash", "y_hash")})
        validated = validate(store, extracted(store, dict(list(bundles.items())[::order])), CONFIG)
        curated = curate(store, validated, CurateConfig(threads=1))
        digests.add(curated.digest)
        drops.add(str(curated.manifest.counts))
        assert curated.manifest.counts.dropped == {"duplicate_pair": 4}
        assert curated.manifest.counts.n_out == 12 * 12 - 4
    assert len(digests) == len(drops) == 1


def shards_and_tokenizer(store: Store, rows: dict[str, list[dict[str, Any]]]) -> tuple[Artifact, Artifact]:
    """A part a label, each of two shards, and the tokenizer that they name: ids 0-63, reserved 0-4."""

    def tokenizer(key: str) -> Outcome:
        scratch = store.scratch("tokenizer")
        words = {f"t{number}": number for number in range(len(RESERVED), 64)}
        made = Tokenizer(BPE({token: number for number, token in enumerate(RESERVED)} | words, []))
        made.add_special_tokens(list(RESERVED))
        made.save(str(scratch / "tokenizer.json"))
        names = ("x_open", "x_close", "y_open", "y_close", "pad")
        (scratch / "delimiters.json").write_text(json.dumps({name: at for at, name in enumerate(names)}))
        return Outcome(parts=(store.commit_part(draft_part(Stage(name="tokenizer", version=1), key, "tokenizer"), scratch),))

    def shards(key: str) -> Outcome:
        parts = []
        for label, own in rows.items():
            scratch = store.scratch("shards")
            half = len(own) // 2
            for number, piece in enumerate((own[:half], own[half:])):
                table = tokens_table(piece)
                with pa.ipc.new_file(str(scratch / f"shard-{number:05}.arrow"), table.schema) as writer:
                    writer.write_table(table)
            parts.append(store.commit_part(draft_part(Stage(name="shards", version=1), f"{key}{label}", label), scratch))
        return Outcome(parts=tuple(parts))

    shutil.rmtree(store.root / "shards", ignore_errors=True)
    made = store.build(Stage(name="tokenizer", version=1), TokenizerConfig(), {}, tokenizer)
    config = ShardConfig(max_x_tokens=6, max_y_tokens=8)
    return store.build(Stage(name="shards", version=1), config, {"tokenizer": made}, shards), made


def test_one_bad_row_of_token_ids_stops_the_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    labels = [f"{split}-docstring" for split in SPLITS]
    rows = {label: [token_row(number) for number in range(50)] for label in labels}
    artifact = check_shards(store, *shards_and_tokenizer(store, rows), CONFIG)
    assert [(row["part"], row["rows"], row["quarantined"]) for row in verdict_rows(artifact)] == [
        (label, 50, 0) for label in labels
    ]
    rows["train-docstring"][40] = token_row(40, x_ids=[0, 10, 11])  # cut without its closing delimiter
    with pytest.raises(RowsRejected, match=r"check_shards: part 'train-docstring': 1 of 50 rows .*commonest: x_close 1;"):
        check_shards(store, *shards_and_tokenizer(store, rows), CONFIG)
    (bad,) = [
        row for path in tmp_path.glob("check_shards/parts/*/quarantine.parquet") for row in pq.read_table(path).to_pylist()
    ]
    assert (bad["offset"], bad["record_id"], bad["reason"]) == (40, token_row(40)["pair_id"], "x_close")


def test_a_shard_that_is_none_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shards, tokenizer = shards_and_tokenizer(store, {"train-docstring": [token_row(0)]})
    scratch = store.scratch("shards")
    (scratch / "shard-00000.arrow").write_bytes(b"not arrow")
    part = store.commit_part(draft_part(Stage(name="shards", version=1), "other", "train-docstring"), scratch)
    broken = store.commit(shards.manifest.model_copy(update={"key": "broken", "parts": (part,)}))
    with pytest.raises(ContractViolation, match=r"shard-00000\.arrow: no Arrow IPC file"):
        check_shards(store, broken, tokenizer, CONFIG)
