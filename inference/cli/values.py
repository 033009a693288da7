"""Values on the command line that click has no type for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

__all__ = ["Bias", "Setting", "Shares", "TemplateFile"]


class TemplateFile(click.Path):
    """A path, converted to the text in that file."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = Path(str(super().convert(value, param, ctx)))
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            self.fail(f"{path} is not UTF-8 text.", param, ctx)


class Shares(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            return tuple(float(share) for share in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers such as 3,1.", param, ctx)


class Bias(click.ParamType[tuple[int, float]]):
    """A token id and what to add to its logit."""

    name = "id=bias"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        token, _, bias = str(value).partition("=")
        try:
            return int(token), float(bias)
        except ValueError:
            self.fail(f"{value!r} is not of the form ID=BIAS, such as 42=-inf.", param, ctx)


class Setting(click.ParamType[tuple[str, Any]]):
    """A name and a value; what reads as JSON is that, anything else is text."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        name, equals, text = str(value).partition("=")
        if not name or not equals:
            self.fail(f"{value!r} is not of the form NAME=VALUE, such as enable_thinking=false.", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text
