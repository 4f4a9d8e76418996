"""`cpt config` and `cpt plan`: what a configuration holds, how two differ, and what a run of one would take."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline_lib.config.run import RunConfig

plan_app = typer.Typer()
config_app = typer.Typer(no_args_is_help=True, help="Show a configuration, compare two, list presets and all options.")

Preset = Annotated[str, typer.Argument(metavar="PRESET", help="A built-in preset, or one of yours in CPT_HOME/presets.")]
File = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="A YAML file of options, over the preset.")]
Words = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One option, as train.learning_rate=1e-4; repeatable.")
]


@config_app.command("show")
def show_config(preset: Preset, config: File = None, words: Words = None) -> None:
    """Show the whole configuration as YAML, each option with its meaning; `--config` reads such a file."""
    from flows.settings import configure
    from pipeline_lib.config.overrides import parse_set, read_config, show
    from pipeline_lib.config.presets import description

    layers = [*([read_config(config)] if config else []), parse_set(words or ())]
    given = [f" --config {config}" if config else "", *(f" --set {word}" for word in words or ())]
    heading = f"{preset}{''.join(given)}: {description(preset)}".strip().removesuffix(":")
    typer.echo(show(configure(preset, layers), heading), nl=False)


@config_app.command("diff")
def diff_configs(
    a: Annotated[str, typer.Argument(metavar="A", help="A preset, or a YAML file of options.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
) -> None:
    """Show the options in which two configurations differ, one per line: name, A's value, B's value."""
    from pipeline_lib.config.overrides import diff

    found = diff(_named(a), _named(b))
    typer.echo(found or f"{a} and {b} are equal", err=not found)


@config_app.command("presets")
def list_presets() -> None:
    """List the presets, built-in and your own, each with its description."""
    from pipeline_lib.config.presets import description, preset_names

    names = preset_names()
    width = max(map(len, names))
    typer.echo("\n".join(f"{name:{width}}  {description(name)}".rstrip() for name in names))


@config_app.command("reference")
def print_reference() -> None:
    """Print every option as Markdown: default, accepted values and meaning."""
    from pipeline_lib.config.reference import reference

    typer.echo(reference(), nl=False)


def _named(name: str) -> RunConfig:
    """The preset of that name, or the one that a file makes: over its own `base`, or over the defaults."""
    from pipeline_lib.config.presets import preset, preset_of_file

    return preset_of_file(Path(name)) if name.endswith((".yaml", ".yml")) else preset(name)


@plan_app.command("plan")
def plan_run(
    preset: Annotated[str, typer.Argument(help="A preset, e.g. cpt_text_s.", metavar="PRESET")],
    init: Annotated[
        str | None, typer.Option(metavar="DIR|ID|random", help="Another start: a folder, a hub id, or random weights.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Number of GPUs; unset: one, or with --gpu here all.")] = None,
    gpu: Annotated[
        str, typer.Option(help="a10, a100-40, a100, l40s, h100, h200 or b200; here: this machine's own GPUs, or its CPU.")
    ] = "h100",
    price: Annotated[float | None, typer.Option(help="Price of one GPU-hour, in any currency.")] = None,
    utilisation: Annotated[
        float, typer.Option(help="Share of the data sheet's peak operations that is reached, 0 to 1.")
    ] = 0.4,
    batch_size: Annotated[
        int | None, typer.Option(help="Pairs per step; the total stays, so the number of steps changes.", min=2)
    ] = None,
    checkpoint_activations: Annotated[
        bool, typer.Option(help="Recompute layers in the backward pass: less memory, more operations.")
    ] = False,
    run: Annotated[
        str | None, typer.Option(metavar="KEY/step-000240", help="A trained checkpoint of that preset: measure its batch.")
    ] = None,
    config: Annotated[str | None, typer.Option(metavar="FILE", help="YAML file of settings.")] = None,
    words: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Estimate what a run needs: processes, memory by part, micro-batch, sharding, GPU-hours, cost and energy.

    It is what `cpt train --gpus N` does on such GPUs; what does not fit ends in an error, as there, with what would.
    """
    from flows.cli.terminal import read_params
    from flows.params import RunParams
    from flows.settings import configure
    from pipeline_lib.train.plan import HERE, Terms, describe_plan, plan

    params = read_params(RunParams, {"preset": preset, "init": init, "config": config, "set": words})
    asked: dict[str, object] = {"train.checkpoint_activations": True} if checkpoint_activations else {}
    if gpus is not None and gpu == HERE:
        asked["train.gpus"] = gpus
    resolved = _with_start(configure(preset, [*params.layers(), asked]))
    if batch_size:
        resolved = resolved.model_copy(update={"train": resolved.train.at_batch_size(batch_size)})
    found = plan(resolved, Terms(1 if gpus is None else gpus, gpu, price or 0.0, utilisation))
    lines = [describe_plan(found)]
    if run:
        from pipeline_lib.runtime.machine import artifact_home
        from pipeline_lib.store.store import Store
        from pipeline_lib.train.batch_size import advise

        advice = advise(Store(artifact_home() / "store"), run)
        scale = advice.noise_scale if math.isfinite(advice.noise_scale) else None
        found["batch"] = {"noise_scale": scale, "bits": advice.bits, "pays_until": advice.negatives_pay_until}
        lines += [
            f"  batch: {advice.sentence()}",
            *(f"    {size:6,} pairs {bits:6.2f} bits" for size, bits in advice.bits.items()),
        ]
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))


def _with_start(config: RunConfig) -> RunConfig:
    """The configuration with the folder of its start in place; one whose sizes are known by name stays as it is."""
    from flows.runs import find_checkpoint, open_store
    from pipeline_lib.config.model import HUB_MODELS
    from pipeline_lib.model.checkpoint import find_start
    from pipeline_lib.model.starts import check_fits

    init = config.model.init
    if init in HUB_MODELS:
        return config
    checkpoint = find_checkpoint(open_store(), init)
    start = str(checkpoint.folder) if checkpoint else find_start(init)
    if checkpoint is None:
        check_fits(start, config)
    return config.model_copy(update={"model": config.model.model_copy(update={"init": start})})
