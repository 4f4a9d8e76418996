"""Peers in one table, on the same candidates: `python -m benchmarks.peers --models demo=FOLDER [--split test]`, `--table`.

Each model on the held-out tasks of a run (`--home`, `--run`) and on the public sets below `--data`, by the project's own
suites. Each figure is written to `--results` when it is there: a run that was interrupted goes on, and a model that is named
later is added without measuring the others again. `--table` writes docs/results/peers.md and its picture from that file;
`--short` prints the short form. `--quick` takes samples of validation.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import EVAL_DATA
from benchmarks.evaluate import QUICK_LIMITS, evaluated, headline_of
from benchmarks.peers import page
from benchmarks.peers.models import BASELINES, PEERS, Peer, encoder_ranking, open_folder, open_peer
from pipeline_lib.config.evaluation import EvaluateConfig, SuiteConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.metrics import difference, read_queries
from pipeline_lib.evaluation.suites.cached import CachedEncoder
from pipeline_lib.evaluation.suites.held_out_pairs import held_out_suites
from pipeline_lib.evaluation.suites.held_out_tasks import draw_tasks
from pipeline_lib.evaluation.suites.models import TextEncoder
from pipeline_lib.evaluation.suites.official_files import MissingData
from pipeline_lib.evaluation.suites.registry import GROUPS, open_suite
from pipeline_lib.evaluation.suites.suite import Suite
from pipeline_lib.runtime.machine import PROC_CPUINFO
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of, replace_file, sha256_file
from pipeline_lib.store.store import Store

ABROAD = (*GROUPS["codesearchnet"], *GROUPS["codesearchnet-99"], "beir/scifact", "cisi", "sts-b", "sick-r")
QUICK = {"candidates": 50, "max_queries": 50, "similarity_pairs": 20, "max_class_texts": 20, "bootstrap": 100}
TIMED, WARM_UP = 100, 5  # queries, one at a time

Record = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, or write the table; 1 where a model was left out in the midst of it."""
    options = _parser().parse_args(argv)
    default = (
        page.RESULTS if options.split == "test" else options.home / f"peers-{options.split}{'-quick' * options.quick}.json"
    )
    results = Results(options.results or default)
    if options.table or options.short:
        found = results.read()
        print(page.short_table(found) if options.short else page.write(found, options.page, options.picture))
        return 0
    if options.quick and options.split == "test":
        raise UserError("--quick is a trial, and takes validation: the test split is opened once, by the whole run")
    peers, absent = _opened(options)
    bench = Bench.prepare(options, results)
    failed: dict[str, str] = {}
    for peer in peers:
        try:
            bench.measure(peer)
        except (UserError, CorruptArtifact) as error:  # the others are worth having without it
            failed[peer.name] = f"{type(error).__name__} while it was measured"  # the message names places of this machine
            print(f"{peer.name}: left out: {error}", file=sys.stderr)
    bench.compare([peer for peer in peers if peer.name not in failed])
    told = results.read().get("left_out", {}) | absent | failed
    measured = {peer.name for peer in peers} - set(failed)
    results.update(left_out={name: reason for name, reason in told.items() if name not in measured})
    print(json.dumps(flat(results.read())))
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=[], metavar="NAME=FOLDER", help="exports, in the order of the columns")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS), help="of these alone")
    parser.add_argument("--suites", nargs="*", default=list(ABROAD), help="public sets of these alone")
    parser.add_argument("--split", default="validation", choices=("validation", "test"))
    parser.add_argument("--quick", action="store_true", help="samples of validation, under a minute")
    parser.add_argument("--data", type=Path, default=EVAL_DATA, help="folder of the public sets")
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("CPT_HOME", "artifacts")))
    parser.add_argument("--run", default="demo", help="report whose held-out pairs are measured on")
    parser.add_argument(
        "--results", type=Path, help="default: docs/results/peers.json for the test split, else a file in --home"
    )
    parser.add_argument("--table", action="store_true", help="write the page and its picture from the results; measure nothing")
    parser.add_argument("--short", action="store_true", help="print the short form from the results; measure nothing")
    parser.add_argument("--page", type=Path, default=page.PAGE)
    parser.add_argument("--picture", type=Path, default=page.PICTURE)
    return parser


@dataclass(frozen=True)
class Results:
    """The file of all figures, whole at any time."""

    path: Path

    def read(self) -> Record:
        """What is there so far; empty where nothing is.

        Raises:
            UserError: the file is not of this benchmark.
        """
        if not self.path.is_file():
            return {}
        try:
            found = json.loads(self.path.read_bytes())
        except ValueError as error:
            raise UserError(f"{self.path}: not JSON ({error}); give another file as --results") from error
        if not (isinstance(found, dict) and isinstance(found.get("models"), dict)):
            raise UserError(f"{self.path}: not written by this benchmark; give another file as --results")
        return found

    def begin(self, head: Record) -> None:
        """Tie the file to a corpus, split and sizes, and to each set's files.

        Raises:
            UserError: its figures are of others.
        """
        found, head = self.read(), json.loads(json.dumps(head))
        differs = [name for name, value in head.items() if name != "sets" and found.get(name, value) != value]
        old = found.get("sets", {})
        differs += [name for name, digest in head["sets"].items() if old.get(name, digest) != digest]
        if differs:
            raise UserError(f"{self.path}: its figures are of another {', '.join(differs)}; give another file as --results")
        self._write({"models": {}} | found | head | {"sets": old | head["sets"]})

    def update(self, **fields: Any) -> None:
        """Change fields."""
        self._write(self.read() | fields)

    def put(self, name: str, record: Record) -> None:
        """One model's record."""
        found = self.read()
        self._write(found | {"models": found["models"] | {name: record}})

    def _write(self, content: Record) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, (json.dumps(content, indent=1) + "\n").encode())


@dataclass(frozen=True)
class Bench:
    """The tasks that every model is put to.

    Attributes:
        suites: by name, those in-domain first.
        texts: queries and candidates that a query's time is measured on.
    """

    store: Store
    results: Results
    split: str
    config: EvaluateConfig
    suites: Mapping[str, Suite]
    at_home: frozenset[str]
    texts: tuple[Sequence[str], Sequence[str]] | None

    @classmethod
    def prepare(cls, options: argparse.Namespace, results: Results) -> Bench:
        """Open the run's held-out pairs and the public sets, and the file of results for them."""
        store = Store(options.home / "store")
        curated, config = held_out_of(options.home, store, options.run)
        config = config.model_copy(update=QUICK) if options.quick else config
        suites = {suite.name: suite for suite in held_out_suites(curated, config)}
        at_home = frozenset(suites)
        public = SuiteConfig(bootstrap=config.bootstrap, seed=config.seed)
        public = public.quick_variant().model_copy(update=QUICK_LIMITS) if options.quick else public
        skipped, digests = {}, dict.fromkeys(suites, curated.only(options.split).digest)
        for name in options.suites:
            suite = open_suite(name, options.data, public)
            reason, digest = _files(suite, options.split)
            if reason:
                skipped[name] = reason
            else:
                suites[name], digests[name] = suite, digest
        sizes = {"evaluate": config.key_fields(), "public": public.key_fields()}
        results.begin({"split": options.split, "quick": options.quick, "sizes": sizes, "sets": digests})
        results.update(skipped=skipped)
        texts = _timed_texts(curated, options.split, config)
        return cls(store, results, options.split, config, suites, at_home, texts)

    def measure(self, peer: Peer) -> None:
        """What is missing of one model: its figures, each written when it is there, then what a query costs.

        Raises:
            UserError: it cannot be loaded, or its vectors are not finite.
        """
        told = {"fingerprint": peer.model.id.fingerprint, "licence": peer.licence, "source": peer.source}
        told |= {"parameters": peer.parameters, "disk_bytes": peer.disk_bytes}
        told |= {"training_cpu_seconds": peer.training_cpu_seconds}
        record = self.results.read()["models"].get(peer.name, {})
        if record.get("fingerprint") != told["fingerprint"]:
            record = {}  # of this name it is another model
        record = {"tasks": {}, "differences": {}} | record | told
        self.results.put(peer.name, record)
        for name, suite in self.suites.items():
            artifact = None if name in record["tasks"] else evaluated(self.store, peer.model, suite, self.split)
            row = headline_of(artifact) if artifact else None
            if artifact and row is None:
                reason = artifact.manifest.facts.get("skipped", {}).get(suite.kind, "it gives no figure")
                self.results.update(skipped=self.results.read()["skipped"] | {name: reason})
            if row is None:
                continue
            kept = {key: row[key] for key in ("task", "kind", "metric", "value", "low", "high", "n")}
            record["tasks"][name] = kept | {"at_home": name in self.at_home}
            self.results.put(peer.name, record)
            print(f"{peer.name}: {row['task']} {row['metric']} {row['value']:.3f}", flush=True)
        if "query_ms" not in record and self.texts:
            record |= cost(peer, self.store, *self.texts)
            self.results.put(peer.name, record)
            print(f"{peer.name}: {record['query_ms']:.2f} ms a query, {record['text_bytes']:,} bytes a text", flush=True)

    def compare(self, peers: Sequence[Peer]) -> None:
        """Paired differences to the baselines that are missing; values of queries come from the store's evaluations."""
        for peer in peers:
            record = self.results.read()["models"][peer.name]
            for other in peers:
                if other.name not in BASELINES or other.name == peer.name:
                    continue
                base = self.results.read()["models"][other.name]
                found = record["differences"].get(other.name, {})
                if found.get("fingerprint") != base["fingerprint"]:
                    found = {"fingerprint": base["fingerprint"], "tasks": {}}
                shared = [name for name in self.suites if name in record["tasks"] and name in base["tasks"]]
                for name in shared:
                    if name not in found["tasks"]:
                        found["tasks"][name] = self._difference(peer, other, name)
                record["differences"][other.name] = found
            self.results.put(peer.name, record)

    def _difference(self, peer: Peer, other: Peer, name: str) -> dict[str, float]:
        queries = []
        for model in (peer.model, other.model):
            artifact = evaluated(self.store, model, self.suites[name], self.split)
            assert artifact is not None, f"{model.id.name} has a figure of {name}"
            queries.append(read_queries(artifact)[model.id.name, artifact.manifest.facts["headline"]])
        found = difference(*queries, self.config.bootstrap, self.config.seed)
        return {"value": found.value, "low": found.low, "high": found.high}


def _opened(options: argparse.Namespace) -> tuple[list[Peer], dict[str, str]]:
    """The peers that are installed and the folders that are named, and why the other peers are not there.

    Raises:
        UserError: a folder holds no model.
    """
    peers, absent = [], {}
    for name in options.peers:
        try:
            peers.append(open_peer(name))
        except UserError as error:
            absent[name] = str(error)
            print(f"{name}: left out: {error}", file=sys.stderr)
    peers += [open_folder(given, options.home) for given in options.models]
    names = [peer.name for peer in peers]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(f"--models: {', '.join(sorted(doubled))} is a name of another column; choose another")
    return peers, absent


def held_out_of(home: Path, store: Store, run: str) -> tuple[Artifact, EvaluateConfig]:
    """The curated pairs of a finished run and the sizes of its tasks, as its report names them.

    Raises:
        UserError: there is no such report, or its pairs are gone.
    """
    path = home / "reports" / run / "report.json"
    if not path.is_file():
        raise UserError(f"{path}: no such report: run `cpt run --preset {run}`, or name another one by --home and --run")
    report = json.loads(path.read_bytes())
    return store.open("curate", report["lineage"]["curate"]["key"]), EvaluateConfig.model_validate(report["config"]["evaluate"])


def _files(suite: Suite, split: str) -> tuple[str, str]:
    """Why the suite cannot be run, empty where it can, and a digest of its files."""
    if split not in suite.splits:
        return f"it has no split {split}", ""
    try:
        return "", digest_of([(path.name, sha256_file(path)) for path in suite.paths(split)])
    except MissingData:
        return "its files are not there", ""


def _timed_texts(curated: Artifact, split: str, config: EvaluateConfig) -> tuple[Sequence[str], Sequence[str]] | None:
    tasks = draw_tasks(curated.only(split), split, config)
    task = tasks.of_kind("code_search") or tasks.of_kind("text_search")
    if task is None:
        return None
    queries, candidates = task.texts_of("x"), task.texts_of("y")
    return queries[: TIMED + WARM_UP], candidates[: config.candidates]


def cost(peer: Peer, store: Store, queries: Sequence[str], candidates: Sequence[str]) -> Record:
    """Milliseconds of processor time a query, the median of one at a time on one thread; dimensions, bytes of a text's vector.

    Processor time, so that other work on the machine does not count.
    """
    if peer.rank:
        ranking = peer.rank(candidates)
    else:
        assert isinstance(peer.model, TextEncoder)
        ranking = encoder_ranking(peer.model, CachedEncoder(peer.model, store).encode(candidates, "y"))
    with one_thread():
        times = []
        for query in queries:
            began = time.process_time_ns()
            ranking.answer(query)
            times.append((time.process_time_ns() - began) / 1e6)
    return {
        "query_ms": statistics.median(times[WARM_UP:] or times),
        "candidates": len(candidates),
        "dimensions": ranking.dimensions,
        "text_bytes": round(ranking.text_bytes),
        "processor": _processor(),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS, OpenMP, torch and tokenizers on one thread each."""
    import torch
    from threadpoolctl import threadpool_limits

    threads, parallel = torch.get_num_threads(), os.environ.get("TOKENIZERS_PARALLELISM", "")
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
        os.environ["TOKENIZERS_PARALLELISM"] = parallel or "true"


def _processor() -> str:
    lines = PROC_CPUINFO.read_text().splitlines() if PROC_CPUINFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def flat(found: Record) -> dict[str, float]:
    """The figures by MODEL_SET, as benchmarks print them."""
    return {
        f"{name}_{task}": round(row["value"], 4)
        for name, record in found["models"].items()
        for task, row in record["tasks"].items()
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, CorruptArtifact) as error:
        sys.exit(f"python -m benchmarks.peers: {error}")
