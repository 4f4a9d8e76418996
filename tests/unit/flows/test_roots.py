"""Places that parameters name stay within the roots that the deployment lists, links and `..` resolved."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.params import EvaluateParams, FinetuneParams, RunParams
from flows.promotion import RollbackParams
from flows.roots import admit
from pipeline_lib.errors import UserError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An allowed folder, beside one that is not, and a bucket's prefix."""
    for name in ("allowed/corpus", "allowed-not/corpus", "home"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CPT_ALLOWED_ROOTS", f"{tmp_path / 'allowed'}, s3://corpora/public, https://dumps.org")
    return tmp_path


def refused(params: object, names: Path | str) -> bool:
    """True if it is refused with a message that names the root."""
    with pytest.raises(UserError, match="outside of the allowed roots") as found:
        admit(params)  # type: ignore[arg-type]
    return "CPT_ALLOWED_ROOTS" in str(found.value) and str(names) in str(found.value)


def test_a_place_within_is_admitted_and_each_outside_is_refused(root: Path) -> None:
    inside, outside = root / "allowed" / "corpus", root / "allowed-not" / "corpus"
    own = root / "home" / "store"
    link, back = root / "allowed" / "link", root / "allowed" / ".." / "allowed-not" / "corpus"
    link.symlink_to(outside)
    admit(RunParams(preset="smoke"))
    admit(RunParams(preset="smoke", source=str(inside), init="random", machine={"artifacts": str(own)}))
    admit(RunParams(preset="smoke", set=("select.suite_data=" + str(inside), "extract.workers=1")))
    for place in (outside, link, back, "/", "/etc"):
        assert refused(RunParams(preset="smoke", source=str(place)), root / "allowed")
        assert refused(RunParams(preset="smoke", init=str(place)), root / "allowed")
        assert refused(RunParams(preset="smoke", set=(f"contamination.folder={place}",)), root / "allowed")
        assert refused(RunParams(preset="smoke", machine={"artifacts": str(place)}), root / "allowed")
        assert refused(EvaluateParams(models=(str(place),)), root / "allowed")
        assert refused(EvaluateParams(suites=("sts-b",), suite_data=str(place)), root / "allowed")
        assert refused(FinetuneParams(checkpoint="published", training_data=(f"nli={place}",)), root / "allowed")


def test_urls_are_held_against_the_roots_by_host_and_path(root: Path) -> None:
    admit(RunParams(preset="smoke", machine={"artifacts": "s3://corpora/public/run"}))
    admit(RunParams(preset="smoke", source="https://dumps.org/wiki"))
    for url in (
        "s3://corpora/publicity",
        "s3://corpora/private",
        "s3://corpora/public/../private",
        "s3://corpora/public/%2e%2e/private",
        "gs://corpora/public",
        "https://dumps.org.evil.org/wiki",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
    ):
        assert refused(RunParams(preset="smoke", source=url), "s3://corpora/public")


def test_what_files_name_is_looked_at_too(root: Path) -> None:
    outside, config, spec = root / "allowed-not" / "corpus", root / "allowed" / "own.yaml", root / "allowed" / "dump.yaml"
    config.write_text(f"source: {{folder: {outside}}}\n")
    assert refused(RunParams(preset="smoke", config=str(config)), root / "allowed")
    spec.write_text("- {reader: text, url: ../allowed-not/corpus/*.md}\n")
    assert refused(RunParams(preset="smoke", source=str(spec)), root / "allowed")
    (root / "allowed-not" / "corpus" / "a.md").write_text("Of another.")
    (root / "allowed" / "corpus" / "a.md").symlink_to(root / "allowed-not" / "corpus" / "a.md")
    spec.write_text("- {reader: text, url: corpus/*.md}\n")
    assert refused(RunParams(preset="smoke", source=str(spec)), root / "allowed"), "a link that a glob finds"
    spec.write_text("- {reader: text, url: corpus}\n- {reader: archive, url: 'pypi:six==1.16.0#sha256=" + "0" * 64 + "'}\n")
    admit(RunParams(preset="smoke", source=str(spec)))
    (root / "elsewhere.yaml").write_text("- not even read")
    assert refused(RunParams(preset="smoke", config=str(root / "elsewhere.yaml")), root / "allowed")


def test_a_scheduler_is_a_place_and_names_are_none(root: Path) -> None:
    assert refused(RunParams(preset="smoke", set=("extract.scheduler=tcp://10.0.0.9:8786",)), root / "allowed")
    admit(EvaluateParams(models=("bm25", "published", "hub:org/model")))
    admit(RunParams(preset="smoke", init="EleutherAI/pythia-70m"))


def test_a_rollback_s_bucket_is_a_place_too(root: Path) -> None:
    admit(RollbackParams(artifacts="s3://corpora/public/run"))
    assert refused(RollbackParams(artifacts="s3://corpora/private"), root / "allowed")
    with pytest.raises(ValueError, match="holds a secret"):
        RollbackParams(artifacts="https://me:password@host/run")


def test_without_a_list_any_place_may_be_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = RunParams(preset="smoke", source=str(root / "allowed-not" / "corpus"))
    monkeypatch.setenv("CPT_ALLOWED_ROOTS", ",")
    assert refused(params, "")
    monkeypatch.delenv("CPT_ALLOWED_ROOTS")
    admit(params)
    assert params.source is not None
