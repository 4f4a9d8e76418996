"""What every test may ask for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from corpus import write_corpus

from pipeline_lib.store.files import disarm, sign_out

EVAL_DATA = Path(os.environ.get("CPT_EVAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A fault that a test armed is none of the next one's, nor are the locks of its stores: two open files for each."""
    yield
    disarm()
    sign_out()


@pytest.fixture(scope="session")
def eval_data() -> Path:
    """The folder of real evaluation sets and dumps; the test is skipped where there is none."""
    if not EVAL_DATA.is_dir():
        pytest.skip(f"evaluation data not found at {EVAL_DATA}: set CPT_EVAL_DATA to its folder")
    return EVAL_DATA


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated folder of code and prose with a planted function."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "tree")


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """moto's S3 server on loopback, as a file system; s3fs finds it as it finds any: by the environment."""
    moto = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    _make_puts_atomic()
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "k"), ("SECRET_ACCESS_KEY", "s"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield s3fs.S3FileSystem()
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def _make_puts_atomic() -> None:
    """Let the look for an object and its put be one step, as S3 promises of `If-None-Match`, and moto's threads do not."""
    from moto.s3.responses import S3Response

    one_at_a_time, put = threading.Lock(), S3Response.put_object

    def put_object(self: Any) -> Any:
        with one_at_a_time:
            return put(self)

    S3Response.put_object = put_object


LONG = ("test_interruption.py", "test_pipeline.py", "test_schedule.py", "test_suspending.py", "test_training_launch.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first, so that no process is left with one at the end."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
