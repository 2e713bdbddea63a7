"""Commands whose options are given once."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand


class OnceCommand(TyperCommand):
    """A command that refuses an option which is given twice: the last one alone would count, without a word."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        order: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
        for option in order:
            one_value = option.param_type_name == "option" and not (option.multiple or option.is_flag or option.count)
            if one_value and order.count(option) > 1:
                remedy = (
                    "; several corpora have commas between them, images of several folders are in one folder or table"
                )
                raise typer.BadParameter(
                    f"expected once, got {order.count(option)} times{remedy * (option.name == 'data')}", ctx, option
                )
        return super().parse_args(ctx, args)


class App(typer.Typer):
    """An application of such commands."""

    def command(self, *args: Any, **options: Any) -> Any:
        return super().command(*args, **{"cls": OnceCommand, **options})
