"""Whether a run's texts lie end to end in their micro-batches, or are padded."""

from __future__ import annotations

from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.packed_attention import kernel_obstacle
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train_config import TrainConfig


def should_pack(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> bool:
    """What `attention` comes to for this model and machine.

    Raises:
        UserError: "packed", where it cannot be.
    """
    if config.attention == "padded":
        return False
    obstacle = _obstacle(config, encoder, ranks)
    by_kernel = ranks.device.type == "cuda" and config.precision == "bfloat16"
    if by_kernel and not obstacle:
        model = encoder.backbone.config
        obstacle = kernel_obstacle(ranks.device, model.hidden_size // model.num_attention_heads)
    if config.attention == "auto":
        # a single layer is pooled: padded, it forms no keys and values, which took a sixth of the time on a CPU
        return by_kernel and not obstacle and encoder.backbone.config.num_hidden_layers > 1
    if obstacle:
        raise UserError(f"train.attention is packed, but {obstacle}; take attention=padded")
    return True


def _obstacle(config: TrainConfig, encoder: Encoder, ranks: Ranks) -> str:
    if not encoder.lean:
        return "only a GPT-2 that is pooled at its last token is packed"
    if config.parallel == "fsdp" and ranks.size > 1:
        return "weights that are cut over processes (parallel=fsdp) are gathered by the model's own forward, which pads"
    return ""
