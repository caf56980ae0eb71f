"""`emgup model`: what a backbone is made of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

app = typer.Typer(help="Examine backbones.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keeps `info` a command of its own while it is the only one."""


@app.command("info")
def info_command(
    backbone: Annotated[str, typer.Argument(help="a backbone's YAML file, or the name of a shipped one")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="backbone settings, or channels, classes, window, rate_hz"),
    ] = None,
) -> None:
    """Print parameters, normalisation layers, receptive field and operations per window."""
    from emgup_model.backbones.describe import describe

    config, shape = read_backbone(backbone, overrides or [])
    found = describe(config, shape)
    total = sum(found.parameters.values())
    parts = ", ".join(f"{name} {count:,}" for name, count in found.parameters.items())
    norms = ", ".join(f"{count} {kind}" for kind, count in sorted(found.norms.items())) or "none"
    seconds = shape.window / shape.rate_hz
    lines = [
        ("backbone", f"{backbone} ({config.kind})"),
        (
            "window",
            f"{shape.channels} channels x {shape.window} samples, {1000 * seconds:g} ms at {shape.rate_hz:g} Hz",
        ),
        ("parameters", f"{total:,} ({parts})"),
        ("norm layers", norms),
        ("receptive field", f"{found.receptive_field} samples, {1000 * found.receptive_field / shape.rate_hz:g} ms"),
        ("operations", f"{found.multiply_adds / 1e6:,.1f} M multiply-adds per window, forward"),
    ]
    for name, text in lines:
        typer.echo(f"{name:<16} {text}")


def read_backbone(name: str, overrides: list[str]) -> Any:
    """(the backbone's config, the shape) from a name or file and key=value settings of either.

    Raises:
        ConfigError: no such backbone, or a setting that neither knows.
    """
    from pydantic import RootModel

    from emgup_model.backbones import BackboneConfig
    from emgup_model.backbones.describe import Shape, usual_shape
    from emgup_model.config import apply_overrides, find_config, load_yaml, parse

    path = find_config("backbones", name)
    given = apply_overrides({}, [o for o in overrides if o.partition("=")[0].strip() in Shape.model_fields])
    rest = [o for o in overrides if o.partition("=")[0].strip() not in Shape.model_fields]
    config = parse(RootModel[BackboneConfig], apply_overrides(load_yaml(path), rest), str(path)).root
    return config, parse(Shape, usual_shape(config) | given, "the window's shape")
