"""Wrong use is answered in one line that says what to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "--preset", "huge"], "demo, lm, smoke"),
        (["run"], "preset"),
        (["run", "--preset", "smoke", "--steps", "-3"], "train.steps: got -3"),
        (["run", "--preset", "smoke", "--set", "train.learnin_rate=1e-4"], "did you mean train.learning_rate"),
        (["plan", "smoke", "--set", "train.step=9"], "did you mean train.steps"),
        (["finetune", "--checkpoint", "0abc/step-000001", "--data", "."], "give --training-data"),
        (["evaluate", "--checkpoint", "0abc/step-000100"], "no finished train artifact"),
        (["search", "anything"], "cpt run --preset demo"),
        (["search", "anything", "--kind", "video"], "code, text"),
        (["run", "--preset", "smoke", "--source", "/nonexistent/folder"], "/nonexistent/folder"),
        (["run", "--preset", "smoke", "--dump", "/nonexistent/dump.yaml"], "/nonexistent/dump.yaml"),
        (["run", "--preset", "smoke", "--dump", "a.yaml", "--source", "."], "a.yaml"),
        (["inspect", "/nonexistent/folder"], "/nonexistent/folder"),
        (["trace", "0123456789abcdef"], "no pair"),
        (["train", "--preset", "cpt_code_s"], "hf download Qwen/Qwen3-0.6B-Base"),
        (["plan", "cpt_text_s", "--init", "nobody/nothing"], "hf download nobody/nothing"),
        (["fly"], "fly"),
    ],
)
def test_one_line(tmp_path: Path, words: list[str], says: str) -> None:
    assert says in the_line(words, tmp_path)


RUN = ["run", "--preset", "smoke", "--source", "flows"]
NO_KEYS = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null"}
KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}
S3 = [*RUN, "--artifacts", "s3://nowhere/prefix"]


@pytest.mark.parametrize(
    ("words", "env", "says"),
    [
        ([*RUN, "--batch-size", "1"], {}, "train.batch_size: got 1, expected a whole number >= 2"),
        ([*RUN, "--processes", "9999"], {}, "train.processes 9,999: this machine has"),
        ([*RUN, "--workers", "9999"], {}, "workers 9,999: this machine has"),
        (["finetune", "--checkpoint", "0abc/step-1", "--training-data", ".", "--processes", "9999"], {}, "processes 9,999"),
        ([*RUN, "--scheduler", "nonsense"], {}, "tcp://HOST:PORT"),
        ([*RUN, "--scheduler", "tcp://127.0.0.1:99999"], {}, "tcp://HOST:PORT"),
        ([*RUN, "--scheduler", "tcp://127.0.0.1:1"], {}, "nobody answers"),
        ([*RUN, "--scheduler", "/nonexistent.json"], {}, "no such scheduler file"),
        ([*RUN, "--artifacts", "s3://"], {}, "no bucket is named"),
        ([*RUN, "--artifacts", "README.md"], {}, "cannot be written to"),
        (S3, NO_KEYS, "credentials"),
        (S3, KEYS | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect"),
        ([*RUN, "--init", "/nonexistent/model"], {}, "no such folder"),
        ([*RUN, "--set", "train.false_negatives.by=guide"], {}, "guide.model names none"),
        ([*RUN, "--set", "guide.keep_top=9", "--set", "guide.model=/nonexistent"], {}, "/nonexistent: neither an export nor"),
        ([*RUN, "--contamination", "/nonexistent"], {}, "no such folder"),
        ([*RUN, "--select-suite", "sts-c", "--suite-data", "."], {}, "no suite 'sts-c'"),
        (["evaluate", "--preset", "smoke", "--suite", "sts-c", "--suite-data", "."], {}, "no suite 'sts-c'"),
        (["evaluate", "--preset", "smoke", "--suite", "sts-b", "--suite-data", "/nonexistent"], {}, "no such folder"),
        (["publish", "--preset", "smoke", "--checkpoint", "last"], {}, "step-000240"),
        (["publish", "--preset", "smoke", "--checkpoint", "step-000100"], {}, "it has: step-000006"),
        (["evaluate", "--suite", "bias", "--suite-data", ".", "--model", "bm26"], {}, "bm25, tfidf"),
        (["evaluate", "--preset", "smoke", "--data", "."], {}, "give --suite-data"),
        ([*RUN, "--temperature", "fixed"], {}, "train.train_temperature=false"),
        ([*RUN, "--config", "/nonexistent.yaml"], {}, "/nonexistent.yaml"),
        (["ablate", "--preset", "smoke", "--lever", "luck"], {}, "--lever"),
        (RUN, {"PREFECT_API_URL": "http://127.0.0.1:1/api"}, "no server answers"),
        (RUN, {"PREFECT_API_URL": "nonsense"}, "no server answers"),
        (RUN, {"CPT_HOME": str(PROJECT / "README.md")}, "is a file"),
        (["search", "anything"], {"CPT_HOME": str(PROJECT / "README.md" / "home")}, "is a file"),
        (["up"], {"CPT_HOME": str(PROJECT / "README.md")}, "is a file"),
        (["up", "--port", "99999"], {}, "--port"),
        (RUN, {"CPT_HOME": "/proc/home"}, "cannot be written to"),
    ],
)
def test_one_line_before_anything_starts(tmp_path: Path, words: list[str], env: dict[str, str], says: str) -> None:
    if words[-1].startswith("s3://n"):
        pytest.importorskip("s3fs")
    assert says in the_line(words, tmp_path, env)
    assert not (tmp_path / "prefect").exists()


def test_a_bucket_that_is_not_there(tmp_path: Path, s3: object) -> None:
    ours = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
    assert "nowhere" in (line := the_line(S3, tmp_path, ours)) and "make the bucket first" in line


def test_nothing_follows_the_error_of_a_stage_that_holds_an_engine(tmp_path: Path) -> None:
    """Prefect keeps the error, the error its frames, and DuckDB reports what is alive at the end of the process as leaked."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.md").write_text("Two words.\n")
    printed = printed_by(["build-dataset", "--preset", "smoke", "--source", str(tmp_path / "empty")], tmp_path)
    assert printed.strip().splitlines()[-1].startswith("cpt: ")
    assert "leak" not in printed


def the_line(words: list[str], home: Path, more: dict[str, str] | None = None) -> str:
    """What `cpt` says of a wrong use: one line, whatever it printed before."""
    printed = printed_by(words, home, more).splitlines()
    (line,) = [line for line in printed if line.startswith("cpt: ")]
    assert line == printed[-1]
    return line


def printed_by(words: list[str], home: Path, more: dict[str, str] | None = None) -> str:
    """What a command that is refused prints to its standard error."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "AWS_"))}
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", *words],
        env=env | {"CPT_HOME": str(home), "HF_HOME": str(home)} | (more or {}),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert answer.returncode == 2, answer.stderr
    assert "Traceback" not in answer.stderr
    return answer.stderr
