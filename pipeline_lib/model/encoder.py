"""Encoder E: a causal transformer, pooled at the closing delimiter, L2-normalised (paper, section 2).

B rows, L tokens, D embedding width, T = B * L.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, GPT2Config, GPT2Model, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model import decoder
from pipeline_lib.model.adapter import add_token_gradients, look_up
from pipeline_lib.model.checkpoint import check_weights
from pipeline_lib.model.families import family_of, longest_row
from pipeline_lib.model.given import (
    EmbeddingHead,
    check_start,
    cut_config,
    draw_delimiters,
    load_head,
    load_transformer,
    longest_input,
)
from pipeline_lib.model.pooling import (
    IDF_FILE,
    Pooling,
    Prompt,
    pool,
    pooling_of,
    prefix,
    prompt_tokens,
    save_prompts,
    save_token_weights,
    saved_prompts,
    saved_token_weights,
    set_pooling,
    truncated_to,
)
from pipeline_lib.runtime.machine import Precision, cpu_has_fast_bfloat16, keep_few_primitives
from pipeline_lib.tokens.sentence_transformer import is_sentence_transformer, read_sentence_transformer

if TYPE_CHECKING:
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

transformers_logging.disable_progress_bar()  # a file of some megabytes; the stages have progress of their own
keep_few_primitives()


MAX_APPENDED_IDS = 5  # four delimiters and padding
ONE_FILE = "1000GB"  # however large, weights are one file: the export copies it by its name
DEFAULT_TEMPERATURE = 0.07  # CLIP's


class Encoder(nn.Module):
    """Maps right-padded token ids to unit vectors; x and y go through the same weights.

    Args:
        backbone: a causal transformer; the export and the checkpoint are made of it.
        pooling: what `build` was asked for; None: what the backbone's config.json says.
        head: of a model of sentence-transformers: its own pooling, and what follows it.

    Attributes:
        backbone: what `AutoModel` built or loaded, all of it saved by `save`.
        log_scale: tau of the paper, the logarithm of the inverse temperature; trained, but no part of the saved backbone.
        precision: of matrix products; weights, norms and embeddings stay float32.
        pooling: "last", "mean" or "idf_mean"; a mean is written into config.json, where a loaded folder has it from.
        prompts: that its own mean leaves out; of a head, see there.
        token_weights_V: of each token in the mean, for "idf_mean"; counted once, on what is trained first, and kept with it.
        checkpointed: a layer keeps its input alone and is computed again on the way back.
        fused: decoder.py's forward, where the backbone's family is described there; else its own.
        packed: whoever cuts micro-batches for this encoder should lay them end to end; `fused` only.
    """

    def __init__(self, backbone: PreTrainedModel, pooling: Pooling | None = None, head: EmbeddingHead | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.log_scale = nn.Parameter(torch.tensor(-math.log(DEFAULT_TEMPERATURE)))
        self.precision: Precision = "float32"
        if pooling is not None:
            set_pooling(backbone, pooling)
        self.pooling: Pooling = head.poolings[0] if head else pooling_of(backbone)
        self.prompts: tuple[Prompt, ...] = ()
        self.token_weights_V: Tensor | None
        self.register_buffer("token_weights_V", None, persistent=False)  # follows the weights to a device
        self.checkpointed = False
        self._regions = decoder.REGIONS
        self._is_causal = family_of(backbone) is not None  # known to be, so that its own forward needs no mask either
        self.fused = head is None and self._is_causal
        self.packed = False
        self._longest = longest_input(backbone)

    @classmethod
    def build(cls, config: ModelConfig, tokenizer: PairTokenizer, seed: int) -> Self:
        """A new GPT-2 of the config's sizes, or the model in the folder `config.init`, causal or of sentence-transformers.

        A given model whose vocabulary lacks delimiters gets rows for them, drawn apart from each other (`draw_delimiters`).

        Raises:
            UserError: the folder cannot be read, it has fewer blocks than are to be kept, or its vocabulary is not the
                tokenizer's.
            CorruptArtifact: its weights are malformed or do not fit its config.json.
        """
        if config.init and is_sentence_transformer(Path(config.init)):
            return cls._of_sentence_transformer(config, tokenizer)
        if config.init:
            backbone = _load_backbone(Path(config.init), config.keep_layers)
            encoder = cls(_adapted(backbone, config, tokenizer, seed), config.pooling)
            encoder.take_token_weights(Path(config.init))
            return encoder
        if config.keep_layers:
            raise UserError("model.keep_layers cuts a given model, and none is given: set model.layers, or give model.init")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            backbone = AutoModel.from_config(gpt2_config(config, tokenizer), attn_implementation="sdpa")
        return cls(backbone, config.pooling)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The encoder of a folder that `save` or `transformers` wrote, in evaluation mode.

        Raises:
            UserError: there is no readable model in the folder.
            CorruptArtifact: its weights are malformed, or do not fit its config.json.
        """
        folder = Path(folder)
        if not is_sentence_transformer(folder):
            encoder = cls(_load_backbone(folder)).eval()
            encoder.prompts = saved_prompts(folder)
            encoder.take_token_weights(folder)
            if encoder.lacks_token_weights:
                raise CorruptArtifact(f"{folder}: no {IDF_FILE}, which its pooling needs; train or export it again")
            return encoder
        model = read_sentence_transformer(folder)
        backbone = load_transformer(model.transformer)
        return cls(backbone, head=load_head(model, backbone.config.hidden_size)).eval()

    @classmethod
    def _of_sentence_transformer(cls, config: ModelConfig, tokenizer: PairTokenizer) -> Self:
        """A given model of sentence-transformers, whose vocabulary the tokenizer has to keep to."""
        folder = Path(config.init)
        model = read_sentence_transformer(folder)
        backbone = load_transformer(model.transformer, cut_config(model.transformer, config.keep_layers))
        check_start(backbone, config.init)
        if tokenizer.vocab_size > backbone.config.vocab_size:
            raise UserError(
                f"{folder}: vocabulary of {backbone.config.vocab_size} ids, the tokenizer has {tokenizer.vocab_size}; "
                "take the tokenizer that belongs to the model"
            )
        _set_dropout(backbone, config.dropout)
        told = tokenizer.delimiters.include_prompt
        model = model if told is None else replace(model, include_prompt=told)
        prompts = [] if model.include_prompt else tokenizer.prompt_ids()
        return cls(backbone, head=load_head(model, backbone.config.hidden_size, prompts))

    def leave_out_prompts(self, tokenizer: PairTokenizer) -> None:
        """Leave out of the mean what the tokenizer says; the head of a sentence-transformers model knows of its own prompts."""
        if not self.head:
            self.prompts = tuple(tokenizer.left_out())

    @property
    def lacks_token_weights(self) -> bool:
        """The pooling needs weights of tokens that nobody has counted yet."""
        return self.head is None and self.pooling == "idf_mean" and self.token_weights_V is None

    def take_token_weights(self, folder: Path) -> None:
        """Take the weights of tokens in the mean from a folder that `save` wrote, where it has some.

        Raises:
            CorruptArtifact: they are damaged, or of another vocabulary.
        """
        if self.head or self.pooling != "idf_mean":
            return
        weights_V = saved_token_weights(folder)
        n_ids = int(self.backbone.config.vocab_size)
        if weights_V is not None and len(weights_V) != n_ids:
            raise CorruptArtifact(f"{folder}: {IDF_FILE} has {len(weights_V):,} weights for {n_ids:,} tokens")
        self.token_weights_V = weights_V

    def save_beside(self, folder: Path) -> None:
        """Write what pooling needs beside weights and config.json: prompts that it leaves out, and weights of tokens."""
        if self.prompts and self.pooling != "last":
            save_prompts(folder, self.prompts)
        if self.token_weights_V is not None:
            save_token_weights(folder, self.token_weights_V)

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Write config.json and model.safetensors, as `AutoModel.from_pretrained` reads them.

        Args:
            weights: the backbone's, by its own names, where they are cut over processes; None: as they are.
        """
        self.backbone.save_pretrained(folder, state_dict=weights, max_shard_size=ONE_FILE)
        if self.head:
            self.head.save(folder)
        else:
            self.save_beside(folder)

    @property
    def width(self) -> int:
        """Dimensions of an embedding."""
        return truncated_to(self.backbone, self.head.width if self.head else int(self.backbone.config.hidden_size))

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.log_scale.device

    def forward(self, ids_BL: Tensor, lengths_B: Tensor, tokens_TD: Tensor | None = None) -> Tensor:
        """Unit vectors (B, D), in the weights' precision.

        Args:
            ids_BL: int64, right-padded; what padding holds does not matter. Or all rows end to end, (T,) (`fused` only).
            lengths_B: int64, tokens of each row: the closing delimiter stands at `lengths_B - 1`.
            tokens_TD: token embeddings of `ids_BL` from `look_up`, row by row, where the caller has them (`fused` only).
        """
        longest = ids_BL.shape[1] if ids_BL.dim() == 2 else int(lengths_B.max())
        self._check_length(longest)
        window = longest_row(self.backbone)
        fused = self.fused and (window is None or longest <= window)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            pooled_BD = self._lean(ids_BL, lengths_B, tokens_TD) if fused else self._own(ids_BL, lengths_B)
        return prefix(pooled_BD.to(self.log_scale.dtype), self.width)

    def compile_layers(self) -> None:
        """Compute the fused forward's blocks, before and after their attention, by torch.compile, in a graph each."""
        self._regions = decoder.compiled_regions()

    def checkpoint_activations(self) -> None:
        """Keep a layer's input alone; its dropout is drawn again as it was, and gradients are the same."""
        self.checkpointed = True
        self.backbone.activation_checkpointing_enable({"use_reentrant": False})  # where its own forward is computed

    def look_up(self, ids_T: Tensor) -> Tensor:
        """Token embeddings (T, D) as a leaf that takes gradients; `add_token_gradients` hands them on to the table."""
        return look_up(self._tokens, ids_T)

    def add_token_gradients(self, ids_T: Tensor, grad_TD: Tensor) -> None:
        """Add to the table's gradient in place: autograd would make a gradient as large as the table for each look-up."""
        add_token_gradients(self._tokens, ids_T, grad_TD)

    @property
    def _tokens(self) -> nn.Embedding:
        return cast(nn.Embedding, self.backbone.get_input_embeddings())

    def _lean(self, ids_BL: Tensor, lengths_B: Tensor, tokens_TD: Tensor | None) -> Tensor:
        skipped_B = prompt_tokens(self.prompts, ids_BL, lengths_B) if self.pooling != "last" else None
        options = decoder.ForwardOptions(self._regions, self.checkpointed, self.pooling, skipped_B, self.token_weights_V)
        return decoder.pooled_states(self.backbone, ids_BL, lengths_B, tokens_TD, options)

    def _own(self, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        if ids_BL.dim() == 1:  # a row beyond a sliding window
            ids_BL = nn.utils.rnn.pad_sequence(ids_BL.split(lengths_B.tolist()), batch_first=True)
        lengths_B = lengths_B.to(ids_BL.device)
        mask_BL = torch.arange(ids_BL.shape[1], device=ids_BL.device) < lengths_B[:, None]
        # padding may hold an id that this vocabulary lacks
        ids_BL = ids_BL.masked_fill(~mask_BL, 0)
        if self.head:  # whether its attention is causal or goes both ways is the backbone's to know
            return self.head(self.backbone(ids_BL, attention_mask=mask_BL.long()).last_hidden_state, ids_BL, lengths_B)
        mask = None if self._is_causal else mask_BL.long()  # no token sees the padding behind it
        states_BLD = self.backbone(ids_BL, attention_mask=mask, use_cache=False).last_hidden_state
        weights_BL = None if self.token_weights_V is None else self.token_weights_V[ids_BL]
        return pool(states_BLD, lengths_B, self.pooling, prompt_tokens(self.prompts, ids_BL, lengths_B), weights_BL)

    def _check_length(self, n_tokens: int) -> None:
        if self._longest is not None and n_tokens > self._longest:
            raise UserError(
                f"a row of {n_tokens} tokens for a model of {self._longest} positions: raise model.positions or cut shorter"
            )


def gpt2_config(config: ModelConfig, tokenizer: PairTokenizer) -> GPT2Config:
    """The `transformers` configuration of a new backbone; pre-training builds its language model from the same.

    Raises:
        UserError: the width is no multiple of the heads.
    """
    if config.width % config.heads:
        raise UserError(f"model.width {config.width} is no multiple of model.heads {config.heads}: change one")
    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        n_positions=config.positions,
        n_embd=config.width,
        n_layer=config.layers,
        n_head=config.heads,
        n_inner=config.inner,
        activation_function="gelu_pytorch_tanh",
        embd_pdrop=config.dropout,
        attn_pdrop=0.0,
        resid_pdrop=config.dropout,
        bos_token_id=tokenizer.x_open,
        eos_token_id=tokenizer.y_close,
        pad_token_id=tokenizer.pad,
        use_cache=False,
    )


def set_temperature(encoder: Encoder, temperature: float) -> None:
    """Set exp(-tau)."""
    with torch.no_grad():
        encoder.log_scale.fill_(-math.log(temperature))


def clamp_temperature(encoder: Encoder, min_temperature: float) -> None:
    """Keep exp(-tau) at or above the floor; called after each optimizer step, as in CLIP (floor 1/100)."""
    with torch.no_grad():
        encoder.log_scale.clamp_(max=-math.log(min_temperature))


def _load_backbone(folder: Path, keep_layers: int | None = None) -> PreTrainedModel:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config file; expected the folder of a causal language model of transformers")
    check_weights(folder)
    try:
        backbone, info = AutoModel.from_pretrained(
            folder,
            config=cut_config(folder, keep_layers),
            local_files_only=True,
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: cannot be loaded as a model of transformers: {error}") from error
    except RuntimeError as error:  # a tensor of another shape than the config says
        raise CorruptArtifact(f"{folder}: the weights do not fit config.json: {error}") from error
    if info["missing_keys"]:  # transformers would draw them at random
        raise CorruptArtifact(f"{folder}: the weights lack {sorted(info['missing_keys'])[:3]} of config.json")
    backbone.config.name_or_path = ""  # where it was loaded from is no part of what is saved
    return backbone


@torch.no_grad()
def _check_causal(backbone: PreTrainedModel, folder: str) -> None:
    """Change the last of four tokens: the states before it must not move."""
    mode = backbone.training
    ids_2L = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]]) % backbone.config.vocab_size
    try:
        first, second = backbone.eval()(ids_2L, attention_mask=torch.ones_like(ids_2L), use_cache=False).last_hidden_state[
            :, :-1
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: no causal language model of tokens alone ({error}); give one, e.g. a GPT-2") from error
    finally:
        backbone.train(mode)
    if not torch.allclose(first, second, atol=1e-4):
        raise UserError(
            f"{folder}: a token changes the states before it, so that this is no causal language model "
            f"({backbone.config.model_type}); give one, e.g. GPT-2, GPT-NeoX, Llama or Qwen"
        )


def _adapted(backbone: PreTrainedModel, config: ModelConfig, tokenizer: PairTokenizer, seed: int) -> PreTrainedModel:
    """A given model with the config's dropout (none on attention weights, as in a new one) and a row for each id."""
    check_start(backbone, config.init)
    _check_causal(backbone, config.init)
    if tokenizer.vocab_size - backbone.config.vocab_size > MAX_APPENDED_IDS:
        raise UserError(
            f"{config.init}: vocabulary of {backbone.config.vocab_size} ids, the tokenizer has {tokenizer.vocab_size}; "
            "take the tokenizer that belongs to the model"
        )
    draw_delimiters(backbone, tokenizer, seed)
    _set_dropout(backbone, config.dropout)
    if isinstance(backbone, GPT2Model):
        backbone.config.attn_pdrop, backbone.config.embd_pdrop, backbone.config.resid_pdrop = 0.0, *[config.dropout] * 2
    return backbone


def _set_dropout(backbone: nn.Module, dropout: float) -> None:
    """The rate everywhere but on attention weights."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0 if name.endswith(("attn_dropout", "self.dropout")) else dropout
        if isinstance(getattr(module, "attention_dropout", None), float):  # Llama and its kin have no module for it
            module.attention_dropout = 0.0
        if isinstance(getattr(module, "dropout", None), float):  # nor have T5 and BART
            module.dropout = 0.0 if "attention" in type(module).__name__.lower() else dropout


def fast_bfloat16(device: str = "cpu") -> bool:
    """True if matrix products in bfloat16 run in hardware: on a CPU that has them, on a GPU from Ampere on.

    Elsewhere bfloat16 is emulated and slower than float32, so that training should stay with float32.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device)[0] >= 8
    return cpu_has_fast_bfloat16()
