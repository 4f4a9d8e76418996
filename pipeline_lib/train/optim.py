"""AdamW, its schedule as a function of the step, and the averaged weights.

Nothing here keeps a counter of its own: what a step does follows from its number, so that a resumed run is the same run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from pipeline_lib.config.training import OptimizerConfig
from pipeline_lib.train.sharding import own, total_norm

Optimizer = torch.optim.AdamW
AVERAGE_RAMP_STEPS = 10.0
SCALE_PARAMETER = "log_scale"


def schedule(config: OptimizerConfig, step: int, steps: int) -> float:
    """The share of its peak that a rate has in step `step` (from 0) of `steps`: linear warm-up, then as the config says."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    final = config.final_learning_rate_share
    if (stable := config.stable_steps(steps)) is not None:
        return 1.0 - (1.0 - final) * max(0.0, (step + 1 - stable) / max(1, steps - stable))
    after_warmup = (step - config.warmup_steps) / max(1, steps - 1 - config.warmup_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, after_warmup)))
    return final + (1.0 - final) * cosine


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW in four groups: token embeddings, logit scale, other matrices, the rest; weight decay is on matrices only.

    Each group's "peak" is its learning rate at the schedule's top; the token embeddings have an epsilon of their own too.
    """
    embeddings = _token_embeddings(module)
    groups: dict[str, list[nn.Parameter]] = {"embeddings": [], "scale": [], "matrices": [], "rest": []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter is embeddings:
            group = "embeddings"
        elif name == SCALE_PARAMETER:
            group = "scale"
        else:
            group = "matrices" if parameter.dim() >= 2 else "rest"
        groups[group].append(parameter)
    peaks = {"embeddings": config.embedding_learning_rate, "scale": config.scale_learning_rate}
    options = [
        {
            "params": parameters,
            "peak": peaks.get(group) or config.learning_rate,
            "weight_decay": config.weight_decay if group in ("embeddings", "matrices") else 0.0,
            "eps": config.embedding_epsilon if group == "embeddings" else config.epsilon,
        }
        for group, parameters in groups.items()
        if parameters
    ]
    betas = (config.first_moment_decay, config.second_moment_decay)
    return torch.optim.AdamW(options, lr=config.learning_rate, betas=betas, fused=True)


def _token_embeddings(module: nn.Module) -> nn.Parameter | None:
    """The table of token embeddings: the encoder's backbone's, or the language model's own."""
    find = getattr(getattr(module, "backbone", module), "get_input_embeddings", None)
    return find().weight if find is not None else None


def set_learning_rates(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Every group's rate at this share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = share * group["peak"]


def clip_gradients(module: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients to a joint norm of at most `max_norm`; returns the norm before, unread, on the gradients' device.

    One that is not finite scales nothing: it would spread to all gradients, and hide which were not finite.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    cut = any(isinstance(gradient, DTensor) for gradient in gradients)
    norm = total_norm(gradients) if cut else nn.utils.get_total_norm(gradients)
    divisor = torch.where(torch.isfinite(norm), norm, 0.0)
    # one at a time where some are cut: a foreach operation takes either cut or whole tensors
    for group in module.parameters() if cut else [module.parameters()]:
        nn.utils.clip_grads_with_norm_(group, max_norm, divisor)
    return norm


def moments(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors `NAME/FIELD`, NAME being the parameter's."""
    return {
        f"{name}/{field}": value
        for name, parameter in module.named_parameters()
        for field, value in optimizer.state.get(parameter, {}).items()
    }


def restore_moments(module: nn.Module, optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put back what `moments` took; steps stay where the fused kernel wants them, on the parameter's device."""
    parameters = dict(module.named_parameters())
    for key, value in saved.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        optimizer.state[parameter][field] = value.to(parameter.device)


class WeightAverage:
    """An exponential moving average of the trainable weights; what checkpoints hold where its decay is above 0.

    The decay of early steps is lower, (1 + s) / (10 + s), so that the random start does not linger in the average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._live = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._mean = [parameter.detach().clone() for parameter in self._live] if decay else []

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        if not self.decay:
            return
        decay = min(self.decay, (1.0 + step) / (AVERAGE_RAMP_STEPS + step))
        live = [own(parameter.data) for parameter in self._live]
        torch._foreach_lerp_([own(mean) for mean in self._mean], live, 1.0 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module's weights are the averaged ones."""
        if not self.decay:
            yield
            return
        live = [own(parameter.data).clone() for parameter in self._live]
        _copy(self._mean, self._live)
        try:
            yield
        finally:
            for parameter, data in zip(self._live, live, strict=True):
                own(parameter.data).copy_(data)

    def tensors(self) -> dict[str, Tensor]:
        """The averaged weights by name; empty where nothing is averaged."""
        return dict(zip(self._names, self._mean, strict=False))

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, mean in self.tensors().items():
            own(mean).copy_(own(saved[name]))


@torch.no_grad()
def _copy(sources: list[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        own(target.data).copy_(own(source))
