"""Given models: of sentence-transformers with their pooling and the modules behind it; fewer blocks; rows for delimiters.

B rows, L tokens, V ids of the vocabulary, D width of the states, E width of the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.attention import use_short_rows
from pipeline_lib.model.checkpoint import check_weights
from pipeline_lib.model.pooling import Pooling, pool, prompt_tokens, save_prompts, saved_prompts, write_json
from pipeline_lib.tokens.sentence_transformer import (
    LEGACY_MODES,
    LIBRARY,
    MODES,
    MODULES_FILE,
    SETTINGS_FILE,
    HeadModule,
    SentenceTransformer,
)

if TYPE_CHECKING:
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
SAME_ROW = 0.1  # of the length of the table's deviation: nearer rows were never trained apart


class EmbeddingHead(nn.Module):
    """Pooling, and the modules behind it, of a model of sentence-transformers.

    Args:
        model: as its folder describes it.
        width: D.
        prompts: ids that rows of a side begin with, and how many of them are no part of the pooled text; only where the model
            leaves its prompts out.

    Raises:
        UserError: a module cannot be kept.
        CorruptArtifact: its weights do not fit.
    """

    def __init__(self, model: SentenceTransformer, width: int, prompts: Sequence[tuple[tuple[int, ...], int]] = ()) -> None:
        super().__init__()
        self.model = model
        self.poolings: tuple[Pooling, ...] = tuple("last" if mode == "lasttoken" else mode for mode in model.modes)
        self.prompts = tuple(prompts)
        self.width_in = width
        width *= len(self.poolings)
        self.layers = nn.ModuleList()
        for module in model.head:
            made = _BUILDERS[module.kind](module, width)
            self.layers.append(made)
            width = getattr(made, "out_features", width)
        self.width = width

    def forward(self, states_BLD: Tensor, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Vectors (B, E) of any length."""
        skipped_B = prompt_tokens(self.prompts, ids_BL, lengths_B)
        pooled_BE = torch.cat([pool(states_BLD, lengths_B, mode, skipped_B) for mode in self.poolings], dim=-1)
        for layer in self.layers:
            pooled_BE = layer(pooled_BE)
        return pooled_BE

    def save(self, folder: Path, transformer: str = "") -> None:
        """Write modules.json, prompts and the files of all modules but the transformer, whose own are somebody else's to write.

        Args:
            transformer: its path below the folder.
        """
        model = self.model
        modes: dict[str, Any] = {name: mode in model.modes for name, mode in LEGACY_MODES.items()}
        if [mode for mode in MODES if mode in model.modes] != list(model.modes):  # an order that only newer versions can name
            modes = {"pooling_mode": list(model.modes)}
        width = {"word_embedding_dimension": self.width_in, "include_prompt": model.include_prompt}
        write_json(folder / "1_Pooling" / CONFIG_FILE, width | modes)
        entries = [("Transformer", transformer), ("Pooling", "1_Pooling")]
        for number, (module, layer) in enumerate(zip(model.head, self.layers, strict=True), 2):
            place = folder / f"{number}_{module.kind}"
            write_json(place / CONFIG_FILE, module.config)
            if weights := {name: weight.detach().contiguous() for name, weight in layer.state_dict().items()}:
                save_file(weights, place / WEIGHTS_FILE, {"format": "pt"})
            entries.append((module.kind, place.name))
        types = [
            # the names by which every version of the library knows its modules
            {"idx": number, "name": str(number), "path": path, "type": f"{LIBRARY}models.{kind}"}
            for number, (kind, path) in enumerate(entries)
        ]
        write_json(folder / MODULES_FILE, types)
        prompts = model.prompt_names | {"query": model.prompts["x"], "document": model.prompts["y"]}
        said = {"model_type": "SentenceTransformer", "prompts": prompts, "default_prompt_name": model.default_prompt}
        # trained on cosines, whatever it was before
        write_json(folder / SETTINGS_FILE, said | {"similarity_fn_name": "cosine"})
        if self.prompts:
            save_prompts(folder, self.prompts)


def truncated_head(head: EmbeddingHead, dim: int) -> EmbeddingHead:
    """The head with modules behind it that keep the first `dim` dimensions, of length 1 again where they were before."""
    folder, kinds = head.model.folder, [module.kind for module in head.model.head]
    cut = [HeadModule("Dense", folder, truncating_dense(head.width, dim))]
    cut += [HeadModule("Normalize", folder, {})] if "Normalize" in kinds else []
    made = EmbeddingHead(replace(head.model, head=(*head.model.head, *cut)), head.width_in, head.prompts)
    layers = list(made.layers)
    for own, layer in zip(head.layers, layers, strict=False):
        layer.load_state_dict(own.state_dict())
    cast(_Dense, layers[len(kinds)]).linear.weight.data = torch.eye(dim, head.width)
    return made.eval()


def truncating_dense(width: int, dim: int) -> dict[str, Any]:
    """Config of a Dense whose weights are the first rows of the unit matrix."""
    own = {"activation_function": "torch.nn.modules.linear.Identity", "bias": False}
    return {"in_features": width, "out_features": dim, **own}


class _Dense(nn.Module):
    """A linear layer, its activation, and where the model has one a way past both; names as in the library's files."""

    def __init__(self, module: HeadModule, width: int) -> None:
        super().__init__()
        config = module.config
        self.out_features = int(config["out_features"])
        self.linear = nn.Linear(int(config["in_features"]), self.out_features, bias=bool(config.get("bias", True)))
        self.activation = _activation(module)
        self.has_residual = bool(config.get("use_residual"))
        if self.has_residual and width != self.out_features:
            self.residual = nn.Linear(width, self.out_features, bias=False)

    def forward(self, x_BE: Tensor) -> Tensor:
        out_BE = self.activation(self.linear(x_BE))
        if not self.has_residual:
            return out_BE
        return out_BE + (self.residual(x_BE) if hasattr(self, "residual") else x_BE)


class _LayerNorm(nn.Module):
    def __init__(self, module: HeadModule, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(int(module.config.get("dimension", width)))

    def forward(self, x_BE: Tensor) -> Tensor:
        return self.norm(x_BE)


class _Normalize(nn.Module):
    def forward(self, x_BE: Tensor) -> Tensor:
        return F.normalize(x_BE, dim=-1)


_BUILDERS: dict[str, Callable[[HeadModule, int], nn.Module]] = {
    "Dense": _Dense,
    "LayerNorm": _LayerNorm,
    "Dropout": lambda module, _: nn.Dropout(float(module.config.get("dropout", 0.2))),  # the library's default
    "Normalize": lambda *_: _Normalize(),
}


def _activation(module: HeadModule) -> nn.Module:
    """The activation that a Dense names: one of torch's own classes, and nothing else that can be imported."""
    name = str(module.config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    where, _, kind = name.rpartition(".")
    found = getattr(nn, kind, None) if where in ("torch.nn.modules.activation", "torch.nn.modules.linear", "torch.nn") else None
    known = isinstance(found, type) and (found.__module__ == "torch.nn.modules.activation" or found is nn.Identity)
    if not known or found is None:
        raise UserError(
            f"{module.folder}: its Dense has the activation {name!r}, which cannot be kept; expected one of torch.nn"
        )
    try:
        return found()
    except TypeError as error:
        raise UserError(f"{module.folder}: its Dense has the activation {name!r}, which needs settings") from error


def load_head(
    model: SentenceTransformer, width: int, prompts: Sequence[tuple[Sequence[int], int]] | None = None
) -> EmbeddingHead:
    """The head of a model with its weights.

    Args:
        width: of the transformer's states.
        prompts: see `EmbeddingHead`; None: what a checkpoint says of them.

    Raises:
        UserError: a module cannot be kept, or its weights are no safetensors.
        CorruptArtifact: weights are malformed, or do not fit.
    """
    prompts = saved_prompts(model.folder) if prompts is None else prompts
    try:
        head = EmbeddingHead(model, width, [(tuple(ids), int(n_tokens)) for ids, n_tokens in prompts])
    except UserError:  # a ValueError of its own kind
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"{model.folder}: a module's config.json lacks or garbles {error}") from error
    for module, layer in zip(model.head, head.layers, strict=True):
        if not layer.state_dict():
            continue
        path = module.folder / WEIGHTS_FILE
        if not path.is_file():
            raise UserError(f"{module.folder}: no {WEIGHTS_FILE}; a pickle is not read: convert it to safetensors")
        try:
            layer.load_state_dict({name: weight.float() for name, weight in load_file(path).items()})
        except (SafetensorError, OSError, RuntimeError) as error:
            raise CorruptArtifact(f"{path}: the weights do not fit config.json: {error}") from error
    return head


def load_transformer(folder: Path, config: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The transformer of a model of sentence-transformers, in float32, with the attention that its architecture has.

    Of an encoder and decoder the encoder alone, as the library does. A pooler of its own is no part of the vector: it is kept
    as it is, and left out where the folder lacks its weights.

    Args:
        config: in place of the folder's own, one of fewer blocks.

    Raises:
        UserError: there is no readable model in the folder.
        CorruptArtifact: its weights are malformed or do not fit its config.json.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(f"{folder}: no config file; expected the transformer of a sentence-transformers model")
    check_weights(folder)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = config or AutoConfig.from_pretrained(folder, **local)
        # T5 and its kin by their encoder
        kind = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), AutoModel)
        backbone, info = kind.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **local
        )
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{folder}: cannot be loaded as a model of transformers: {error}") from error
    except RuntimeError as error:  # a tensor of another shape than the config says
        raise CorruptArtifact(f"{folder}: the weights do not fit config.json: {error}") from error
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:  # transformers would draw them at random
        raise CorruptArtifact(f"{folder}: the weights lack {missing[:3]} of config.json")
    pooler = getattr(backbone, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(False)
        if info["missing_keys"]:
            backbone.pooler = None
    if hasattr(backbone.config, "use_cache"):
        backbone.config.use_cache = False
    use_short_rows(backbone)
    backbone.config.name_or_path = ""  # where it was loaded from is no part of what is saved
    return backbone


def cut_config(folder: Path, keep_layers: int | None) -> PreTrainedConfig:
    """The configuration of a folder's model, of its first `keep_layers` blocks; what is not asked for is not loaded either.

    Raises:
        UserError: it has fewer.
        OSError, ValueError: it is no configuration that transformers knows.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    n_layers = getattr(config, "num_hidden_layers", None)
    if keep_layers is None or keep_layers == n_layers:
        return config
    if n_layers is None or keep_layers > n_layers:
        raise UserError(f"model.keep_layers is {keep_layers}, {folder} has {n_layers} blocks; lower it")
    for name, value in list(vars(config).items()):  # what each block is, one by one: kinds of attention, say
        if isinstance(value, list | tuple) and len(value) == n_layers and ("layer" in name or "block" in name):
            setattr(config, name, value[:keep_layers])
    config.num_hidden_layers = keep_layers
    try:
        return type(config).from_dict(config.to_dict())  # as it will be read again
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder}: a {config.model_type} cannot be cut to {keep_layers} blocks: {error}") from error


def check_start(model: PreTrainedModel, place: str) -> None:
    """Look whether a given model's weights are numbers, and its table tells words apart.

    Raises:
        UserError: they are not, or all rows are alike.
    """
    damaged = [name for name, weight in model.named_parameters() if not weight.isfinite().all()]
    if damaged:
        raise UserError(
            f"{place}: {len(damaged)} tensors hold values that are no finite numbers ({damaged[:3]}); fetch it again"
        )
    table_VD = cast(nn.Embedding, model.get_input_embeddings()).weight
    if (table_VD == table_VD[0]).all():
        raise UserError(f"{place}: all rows of its token table are the same, expected one for each word; take another start")


def longest_input(backbone: nn.Module) -> int | None:
    """Most tokens of a row: the model's positions less those that stand before the first; None where there is no limit."""
    positions = getattr(backbone.config, "max_position_embeddings", None)
    if positions is None or positions < 0:
        return None
    tables = (getattr(module, "position_embeddings", None) for module in backbone.modules())
    offsets = [table.padding_idx + 1 for table in tables if isinstance(table, nn.Embedding) and table.padding_idx is not None]
    return int(positions) - max(offsets, default=0)


@torch.no_grad()
def draw_delimiters(model: PreTrainedModel, tokenizer: PairTokenizer, seed: int) -> None:
    """Make the table reach over every id of the tokenizer, and draw the rows of appended delimiters apart from each other.

    A row is the mean of the table's own plus noise of their deviation, by dimension: as any word's, for all that a model can
    tell. From the mean alone, x and y of one text would begin as the same vector, and so would their gradients. Rows that the
    table has already (padding of its vocabulary, or an earlier training) stay where they are apart.
    """
    n_words = int(model.config.vocab_size)
    if tokenizer.vocab_size > n_words:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model.resize_token_embeddings(tokenizer.vocab_size, mean_resizing=False)
    if not tokenizer.appended:
        return
    rows = torch.tensor(tokenizer.appended)
    for table_VD in {id(table): table for table in _tables(model)}.values():
        words_VD = table_VD[: min(n_words, *tokenizer.appended)]
        deviation_D = words_VD.std(dim=0)
        distances = nn.functional.pdist(table_VD[rows])
        if max(tokenizer.appended) >= n_words or (distances < SAME_ROW * deviation_D.norm()).any():
            noise_RD = torch.randn((len(rows), len(deviation_D)), generator=torch.Generator().manual_seed(seed))
            table_VD[rows] = words_VD.mean(dim=0) + noise_RD * deviation_D


def _tables(model: PreTrainedModel) -> list[Tensor]:
    """The weights of the token table and of the head for words, where there is one; one tensor twice where they are tied."""
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    return [cast(nn.Embedding, module).weight for module in modules if module is not None]
