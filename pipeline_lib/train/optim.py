"""AdamW, Muon beside it, their schedule as a function of the step, and the averaged weights.

Nothing here keeps a counter of its own: what a step does follows from its number, so that a resumed run is the same run.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.train.sharding import own, total_norm

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


class Optimizer:
    """AdamW, with Muon for the hidden matrices where that is asked for: groups and states of both as one.

    Args:
        parts: which share no parameter.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        self._parts = tuple(parts)
        self._of = {id(parameter): part for part in parts for group in part.param_groups for parameter in group["params"]}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all parts."""
        return [group for part in self._parts for group in part.param_groups]

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The state that is kept of a parameter, to read and to write; empty before its first step."""
        return self._of[id(parameter)].state[parameter]

    def step(self) -> None:
        """Change all weights by their gradients."""
        for part in self._parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for part in self._parts:
            part.zero_grad(set_to_none)


def build_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Five groups: token embeddings, logit scale, hidden matrices, other matrices, the rest; weight decay is on matrices only.

    Each group's "peak" is its learning rate at the schedule's top; the token embeddings have an epsilon of their own too.
    Under `optimizer: muon` the hidden matrices, those of linear layers but a language model's head, are Muon's (arXiv
    2502.16982: its updates scaled to the size of AdamW's, of whole matrices alone), and all else is AdamW's.
    """
    embeddings, hidden = _token_embeddings(module), _hidden_matrices(module)
    groups: dict[str, list[nn.Parameter]] = {"embeddings": [], "scale": [], "hidden": [], "matrices": [], "rest": []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter is embeddings:
            group = "embeddings"
        elif name == SCALE_PARAMETER:
            group = "scale"
        elif config.optimizer == "muon" and id(parameter) in hidden:
            group = "hidden"
        else:
            group = "matrices" if parameter.dim() >= 2 else "rest"
        groups[group].append(parameter)
    peaks = {
        "embeddings": config.embedding_learning_rate,
        "scale": config.scale_learning_rate,
        "hidden": config.muon_learning_rate,
    }
    options = {
        group: {
            "params": parameters,
            "peak": peaks.get(group) or config.learning_rate,
            "weight_decay": config.weight_decay if group in ("embeddings", "hidden", "matrices") else 0.0,
            "eps": config.embedding_epsilon if group == "embeddings" else config.epsilon,
        }
        for group, parameters in groups.items()
        if parameters
    }
    parts: list[torch.optim.Optimizer] = []
    if hidden_group := options.pop("hidden", None):
        del hidden_group["eps"]
        parts.append(torch.optim.Muon([hidden_group], lr=config.learning_rate, adjust_lr_fn="match_rms_adamw"))
    if options:
        betas = (config.first_moment_decay, config.second_moment_decay)
        parts.append(torch.optim.AdamW(options.values(), lr=config.learning_rate, betas=betas, fused=True))
    return Optimizer(parts)


def _token_embeddings(module: nn.Module) -> nn.Parameter | None:
    """The table of token embeddings: the encoder's backbone's, or the language model's own."""
    find = getattr(getattr(module, "backbone", module), "get_input_embeddings", None)
    return find().weight if find is not None else None


def _hidden_matrices(module: nn.Module) -> set[int]:
    """The weights, by id, of all linear layers (GPT-2's Conv1D too) but a language model's head."""
    backbone = getattr(module, "backbone", module)
    head = backbone.get_output_embeddings() if hasattr(backbone, "get_output_embeddings") else None
    layers = [layer for layer in backbone.modules() if isinstance(layer, nn.Linear | Conv1D) and layer is not head]
    return {id(layer.weight) for layer in layers}


def set_learning_rates(optimizer: Optimizer, share: float) -> None:
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


def moments(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as flat tensors `NAME/FIELD`, NAME being the parameter's."""
    return {
        f"{name}/{field}": value
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
        for field, value in optimizer.state_of(parameter).items()
    }


def restore_moments(module: nn.Module, optimizer: Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put back what `moments` took; steps stay where the fused kernel wants them, on the parameter's device."""
    parameters = dict(module.named_parameters())
    for key, value in saved.items():
        name, _, field = key.rpartition("/")
        parameter = parameters[name]
        optimizer.state_of(parameter)[field] = value.to(parameter.device)


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
