"""`cpt config`: what a configuration holds, how two differ, and the reference of all options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline_lib.config.run import RunConfig

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
