"""What all commands have in common: an example in the help, --quiet, and options that are given once."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from guidance_core.commands.terminal import quietly

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print nothing but errors; with --json, nothing but the JSON.")
]


def write_examples(examples: str, formatter: Any) -> None:
    """Write commands to copy at the end of a help text: never wrapped."""
    formatter.write_paragraph()
    with formatter.section("Examples"):
        for line in examples.splitlines():
            formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class GuidanceCommand(TyperCommand):
    """A command whose epilog is examples, and whose options that take one value are given once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option that is given twice, of which only the last would count."""
        if not ctx.resilient_parsing:
            _, _, order = self.make_parser(ctx).parse_args(args=list(args))
            for option, count in Counter(order).items():
                takes_one = option.nargs == 1 and not option.multiple and not getattr(option, "is_flag", False)
                if count > 1 and takes_one:
                    ctx.fail(f"{option.opts[0]} is given {count} times; it takes one value.")
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        if self.epilog:
            write_examples(self.epilog, formatter)


class GuidanceGroup(TyperGroup):
    """Commands, with examples after their list."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, and what else follows after an empty line."""
        if self.epilog:
            examples, _, rest = self.epilog.partition("\n\n")
            write_examples(examples, formatter)
            for paragraph in filter(None, rest.split("\n\n")):
                formatter.write_paragraph()
                formatter.write_text(paragraph.replace("\n", " "))


def add_command(app: typer.Typer, function: Callable[..., None], *examples: str, name: str | None = None) -> None:
    """Add a function as a command that has --quiet, with examples in its help."""
    app.command(name, cls=GuidanceCommand, epilog="\n".join(examples))(_with_quiet(function))


def _with_quiet(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool = False, **named: Any) -> None:
        if not quiet:
            function(*arguments, **named)
            return
        with quietly(keeps_answer=bool(named.get("as_json"))):
            function(*arguments, **named)

    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    parameters = [*signature.parameters.values(), option]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command
