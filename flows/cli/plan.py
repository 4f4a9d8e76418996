"""`cpt plan`: what a run would take, before anything is paid for it."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

plan_app = typer.Typer()


@plan_app.command("plan")
def plan_run(
    preset: Annotated[str, typer.Argument(help="A preset, e.g. cpt_text_s.", metavar="PRESET")],
    init: Annotated[
        str,
        typer.Option(metavar="DIR|ID|random", help="Another start: a folder, a hub id, or random weights."),
    ] = "",
    gpus: Annotated[int, typer.Option(help="How many.")] = 1,
    gpu: Annotated[str, typer.Option(help="a10, a100-40, a100, l40s, h100, h200 or b200.")] = "h100",
    price: Annotated[float, typer.Option(help="Of one GPU-hour, in any currency; 0: no cost is told.")] = 0.0,
    utilisation: Annotated[float, typer.Option(help="Of the data sheet's operations, 0 to 1.")] = 0.4,
    batch_size: Annotated[int, typer.Option(help="Pairs of a step; steps change in proportion. 0: the preset's.", min=0)] = 0,
    checkpoint_activations: Annotated[
        bool, typer.Option(help="Compute layers again on the way back: less memory, more operations.")
    ] = False,
    run: Annotated[
        str, typer.Option(metavar="KEY/step-000240", help="A trained checkpoint of that preset: measure its batch.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What a run would take: parameters, memory of a GPU by part, micro-batch, sharding, GPU-hours, cost and energy."""
    from pipeline_lib.config.model import HUB_MODELS
    from pipeline_lib.config.presets import RANDOM
    from pipeline_lib.config.presets import preset as preset_config
    from pipeline_lib.model.checkpoint import find_start
    from pipeline_lib.train.plan import Terms, describe_plan, plan

    config = preset_config(preset, init if init == RANDOM or init in HUB_MODELS else find_start(init))
    train = config.train.at_batch_size(batch_size) if batch_size else config.train
    train = train.model_copy(update={"checkpoint_activations": checkpoint_activations or train.checkpoint_activations})
    found = plan(config.model_copy(update={"train": train}), Terms(gpus, gpu, price, utilisation))
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
