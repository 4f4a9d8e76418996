"""What may be a start, and what is refused before anything of it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from causal_lms import write_causal_lm
from training_runs import MODEL, write_inputs, write_job
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel

from flows.settings import PLACE_OR_NAME, absolute_place
from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import find_start, start_name, start_weights
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.starts import check_kept_layers
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.train.causal import CausalObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import PRETRAIN, Job
from pipeline_lib.train.start import Start, start_of


def test_a_folder_is_itself_and_nothing_is_nothing(tmp_path: Path) -> None:
    assert find_start(str(tmp_path)) == str(tmp_path) and find_start("") == "" == start_name("")
    assert start_name("/models/tiny-llama") == "tiny-llama"
    assert start_name("/cache/models--EleutherAI--pythia-70m/snapshots/a39f36b1") == "EleutherAI/pythia-70m at a39f36b1"


def test_a_hub_id_is_not_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"nothing is fetched unasked: give --download .*`hf download nobody/no-such-model`"):
        find_start("nobody/no-such-model")
    assert start_weights("nobody/no-such-model") is None and start_weights("") is None
    with pytest.raises(UserError, match="no such folder"):
        find_start("/no/such/folder")


def test_a_cached_hub_id_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--somebody--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    write_causal_lm(snapshot, "gpt2")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert Path(find_start("somebody/tiny")) == snapshot
    model = AutoModelForCausalLM.from_pretrained(snapshot)
    assert start_weights("somebody/tiny") == start_weights(str(snapshot)) == sum(w.numel() for w in model.parameters())


def start_from(folder: Path) -> Encoder:
    return Encoder.build(ModelConfig(init=str(folder)), PairTokenizer.from_causal_lm(folder), seed=1)


def test_code_beside_the_weights_is_not_run(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "llama")
    config = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of", "auto_map": names}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot be loaded"):
        start_from(folder)
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "gpt2")
    torch.save(Encoder.load(folder).backbone.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        start_from(folder)


def test_a_bidirectional_model_is_refused(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "gpt2")
    sizes = {"vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    with pytest.raises(UserError, match="no causal language model"):
        start_from(folder)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_dropout_is_the_configs_and_none_on_attention(tmp_path: Path, family: str) -> None:
    folder = write_causal_lm(tmp_path / "lm", family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3, "attn_pdrop": 0.3}))
    encoder = start_from(folder).train()
    ids_BL, lengths_B = torch.tensor([[5, 6, 7, 8]]), torch.tensor([4])
    torch.testing.assert_close(encoder(ids_BL, lengths_B), encoder(ids_BL, lengths_B), atol=0, rtol=0)


def pretraining(root: Path, start: Path | None = None, **model: int) -> CausalObjective:
    store, inputs = write_inputs(root)
    config = PretrainConfig(steps=2, batch_tokens=256, sequence_tokens=24, threads=1)
    job = write_job(store, inputs, config, stage=PRETRAIN)
    changed = job.model.model_copy(update=model)
    job = Job.model_validate({**job.model_dump(), "start": str(start or ""), "model": changed})
    return CausalObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())


def test_what_pre_training_writes_is_a_start_with_its_own_delimiters(tmp_path: Path) -> None:
    objective = pretraining(tmp_path / "first")
    objective.save(tmp_path)
    adopted = PairTokenizer.from_causal_lm(tmp_path)
    assert adopted.delimiters == objective.tokenizer.delimiters and len(adopted.reserved) == 5
    assert adopted.encode(["anchor [x]"], "x", 9) == objective.tokenizer.encode(["anchor [x]"], "x", 9)
    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert theirs("anchor basket")["input_ids"] == adopted.encode(["anchor basket"], "x", 20)[0][1:-1]
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.n_embd == MODEL.width
    again = pretraining(tmp_path / "second", tmp_path)  # text -> code: the same model goes on, on other data
    before = dict(objective.module.named_parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in again.module.named_parameters())
    assert again.gradients(0).loss > 0


def test_what_pre_training_made_of_a_given_model_is_the_start_and_a_lexical_one_beside_it_is_refused(tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), write_causal_lm(tmp_path / "lm", "gpt2")

    def build(stage: Stage) -> Artifact:
        def make(key: str) -> Outcome:
            scratch = store.scratch(stage.name)
            (scratch / "config.json").write_text("{}")
            return Outcome(parts=(store.commit_part(draft_part(stage, key, "model"), scratch),))

        return store.build(stage, StageConfig(), {}, make)

    given, more = ModelConfig(init=str(folder)), build(PRETRAIN)

    def start(made: Artifact | None) -> Start:
        return start_of(store, made, PretrainConfig(), given, tokenizer=more)

    assert (start(more).folder, start(more).digest) == (str(more.part_folder("model")), more.digest)
    assert start(None).folder == str(folder)
    with pytest.raises(UserError, match="a lexical_start start is given too; choose one of them"):
        start(build(Stage(name="lexical_start", version=1)))


def test_going_on_with_a_given_model_gives_missing_ids_rows(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "llama")  # smaller than the vocabulary of the shards
    objective = pretraining(tmp_path / "run", folder)
    assert objective.module.config.vocab_size == max(objective.tokenizer.vocab_size, 400)
    assert objective.gradients(0).loss > 0


def test_going_on_with_the_first_blocks_leaves_a_start_of_as_many(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "llama")
    objective = pretraining(tmp_path / "run", folder, keep_layers=1)
    assert objective.gradients(0).loss > 0
    objective.save(tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert fields["num_hidden_layers"] == 1 == start_from(tmp_path / "saved").backbone.config.num_hidden_layers
    weights = start_weights(str(folder), keep_layers=1)
    assert weights and weights < (start_weights(str(folder)) or 0)


def test_kept_blocks_are_looked_for_before_anything_is_made(tmp_path: Path) -> None:
    folder = write_causal_lm(tmp_path / "lm", "gpt2")
    check_kept_layers(str(folder), 2)
    check_kept_layers("", None)
    with pytest.raises(UserError, match=r"model\.keep_layers is 3, .* has 2 blocks; lower it"):
        check_kept_layers(str(folder), 3)
    with pytest.raises(UserError, match="none is given"):
        check_kept_layers("", 1)


def test_a_file_to_start_from_is_found_from_wherever_a_flow_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    assert absolute_place("tiny.gguf", PLACE_OR_NAME) == str(tmp_path / "tiny.gguf")
    assert absolute_place("smollm2-135m", PLACE_OR_NAME) == "smollm2-135m"
