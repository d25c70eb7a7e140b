"""The one-line form of a stack: `cfg:scale=3,rescale:phi=0.7`.

    spec      = [part {"," part}]
    part      = plugin | recipe                  a recipe comes first
    recipe    = "@" name [":" parameter {"," parameter}]
    plugin    = name [":" parameter {"," parameter}]     in commands also module ":" class [":" ...]
    parameter = name "=" value
    value     = number | true | false | none | word | 3x3+7x45 | "quoted text"
              | "[" value {"," value} "]"
              | "{" key ":" value {"," key ":" value} "}"
              | schedule "(" value-or-parameter {"," value-or-parameter} ")"

A part that has neither `=` nor belongs to a parameter starts the next plugin.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import attrs

from guidance_core.discovery.places import check_no_file
from guidance_core.errors import SpecError, UnknownNameError, brief, suggest
from guidance_core.parameters.named import SCHEDULES

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+(?![\w.-]))
  | (?P<word>[A-Za-z_][\w.\-\#]*|\d[\w.\-]*(?:\+\d[\w.]*)*)
  | (?P<quoted>"(?:[^"\\]|\\.)*")
  | (?P<mark>[:=,\[\]{}()@])
    )""",
    re.VERBOSE,
)
MOST_TEXT = 1_000_000
"Characters of a written stack."
MOST_DEPTH = 32
MOST_DIGITS = 300
SHOWN = 120
"Characters on either side of a mistake that its error shows."
_WORDS = {"true": True, "false": False, "none": None}


@attrs.frozen
class _Token:
    kind: str
    text: str
    at: int


def parse_spec(text: str, *, places: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return the plain data a spec stands for.

    Args:
        text: the spec.
        places: whether a plugin may also be named as `module:Class`. It stays a name here; nothing is imported.

    Raises:
        SpecError: the text has another form; the error points at the place.
        ConfigurationError: with `places`, it names a file where a module belongs.
    """
    if not isinstance(text, str):
        raise SpecError(f"a spec is a string such as 'cfg:scale=3,rescale:phi=0.7'; got {type(text).__name__}.")
    text = text.removeprefix("\ufeff")
    if len(text) > MOST_TEXT:
        raise SpecError(f"a spec has at most {MOST_TEXT:,} characters; got {len(text):,}.")
    try:
        return {"guidance": _Parser(text, places=places).plugins()}
    except SpecError:
        if places:
            check_no_file(text)
        raise


class _Parser:
    def __init__(self, text: str, *, places: bool) -> None:
        self.text = text
        self.places = places
        self.depth = 0
        self.tokens = self._tokens()
        self.next = 0

    def _tokens(self) -> list[_Token]:
        tokens, at = [], 0
        end = len(self.text.rstrip())
        while at < end:
            found = _TOKEN.match(self.text, at)
            if found is None or found.lastgroup is None:
                raise self._error("unexpected character", at + len(self.text[at:]) - len(self.text[at:].lstrip()))
            tokens.append(_Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
            at = found.end()
        return [*tokens, _Token("end", "", end)]

    def _error(self, what: str, at: int) -> SpecError:
        first, last = max(0, at - SHOWN), at + SHOWN
        before, after = "... " if first else "", " ..." if last < len(self.text) else ""
        part = self.text[first:last].replace("\n", " ")
        return SpecError(
            f"{what} at position {at + 1} of the spec:\n  {before}{part}{after}\n  {' ' * (len(before) + at - first)}^"
        )

    def _look(self, ahead: int = 0) -> _Token:
        return self.tokens[min(self.next + ahead, len(self.tokens) - 1)]

    def _take(self, text: str | None = None, expected: str | None = None) -> _Token:
        token = self._look()
        if text is not None and token.text != text:
            raise self._error(f"expected {expected or repr(text)}, found {_found(token)}", token.at)
        self.next += 1
        return token

    def _name(self, what: str) -> str:
        token = self._take()
        if token.kind not in ("word", "number") or token.text.startswith(("+", ".")):
            raise self._error(f"expected {what}, found {_found(token)}", token.at)
        return token.text

    def plugins(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        if self._look().kind == "end":
            return found
        while True:
            found.append(self._plugin())
            if self._look().kind == "end":
                return found
            self._take(",", "',' or the end")

    def _plugin(self) -> dict[str, Any]:
        if self._look().text == "@":
            self._take("@")
            table: dict[str, Any] = {"recipe": self._name("the name of a recipe")}
        else:
            table = {"plugin": self._plugin_name()}
        if self._look().text == "=":
            raise self._error("expected a plugin, as in 'cfg:scale=3', found a parameter", self._look().at)
        if self._look().text != ":":
            return table
        self._take(":")
        while True:
            at = self._look().at
            name = self._name("the name of a parameter")
            self._take("=", f"'=' after the parameter {brief(name)}, as in 'cfg:scale=3'")
            if name in table:
                raise self._error(f"parameter {brief(name)} is given twice", at)
            table[name] = self._value()
            if self._look().text != "," or self._look(2).text != "=":
                return table
            self._take(",")

    def _plugin_name(self) -> str:
        name = self._name("the name of a plugin")
        is_place = self._look().text == ":" and self._look(1).kind == "word" and self._look(2).text != "="
        if not (self.places and is_place):
            return name
        self._take(":")
        return f"{name}:{self._take().text}"

    def _value(self) -> Any:
        token = self._take()
        if token.kind == "number":
            if len(token.text) > MOST_DIGITS:
                raise self._error(f"a number of {len(token.text)} digits", token.at)
            return int(token.text) if re.fullmatch(r"[-+]?\d+", token.text) else float(token.text)
        if token.kind == "quoted":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        if token.text == "[":
            return self._many("]", self._value)
        if token.text == "{":
            pairs = self._many("}", self._pair)
            made = dict(pairs)
            if len(made) < len(pairs):
                twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
                raise self._error(f"{brief(twice)} is given twice", token.at)
            return made
        if token.kind == "word":
            if self._look().text == "(":
                return self._call(token)
            return _WORDS.get(token.text, token.text)
        raise self._error(f"expected a value, found {_found(token)}", token.at)

    def _pair(self) -> tuple[str, Any]:
        token = self._take()
        if token.kind not in ("word", "number", "quoted"):
            raise self._error(f"expected a name, found {_found(token)}", token.at)
        self._take(":")
        return (token.text[1:-1] if token.kind == "quoted" else token.text), self._value()

    def _many(self, closing: str, one: Any) -> list[Any]:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise self._error(f"values nested more than {MOST_DEPTH} deep", self._look().at)
        items = self._items(closing, one)
        self.depth -= 1
        return items

    def _items(self, closing: str, one: Any) -> list[Any]:
        items: list[Any] = []
        if self._look().text == closing:
            self._take()
            return items
        while True:
            items.append(one())
            if self._take(None).text == closing:
                return items
            self.next -= 1
            self._take(",", f"',' or {closing!r}")

    def _call(self, name: _Token) -> dict[str, Any]:
        self._take("(")
        arguments = self._many(")", self._argument)
        positional = [value for key, value in arguments if key is None]
        if name.text == "tensor":
            return {"tensor": positional[0] if len(positional) == 1 else positional}
        cls = SCHEDULES.get(name.text)
        if cls is None:
            raise UnknownNameError(f"there is no schedule {brief(name.text)}.{suggest(name.text, SCHEDULES)}")
        fields = [field.name for field in attrs.fields(cls) if field.init]
        if len(positional) > len(fields):
            raise self._error(f"schedule {name.text!r} takes {', '.join(fields)}", name.at)
        given = dict(zip(fields, positional, strict=False))
        for key, value in arguments:
            if key is not None:
                if key in given:
                    raise self._error(f"{brief(key)} of schedule {name.text!r} is given twice", name.at)
                given[key] = value
        if name.text == "table" and isinstance(given.get("rows"), dict):
            given["rows"] = [[bound, value] for bound, value in given["rows"].items()]
        return {"schedule": name.text, **given}

    def _argument(self) -> tuple[str | None, Any]:
        if self._look().kind == "word" and self._look(1).text == "=":
            name = self._take().text
            self._take("=")
            return name, self._value()
        return None, self._value()


def _found(token: _Token) -> str:
    return brief(token.text) if token.text else "the end"


def format_spec(data: Mapping[str, Any]) -> str:
    """Return the spec that stands for plain data."""
    parts = []
    for table in data["guidance"]:
        kind = "recipe" if "recipe" in table else "plugin"
        parameters = [f"{name}={_format(value)}" for name, value in table.items() if name != kind]
        name = table["plugin"] if kind == "plugin" else f"@{table['recipe']}"
        parts.append(name + (":" + ",".join(parameters) if parameters else ""))
    return ",".join(parts)


def _format(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, str):
        plain = re.fullmatch(r"[A-Za-z_][\w.\-]*", value) and value not in _WORDS
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return value if plain else f'"{escaped}"'
    if isinstance(value, Mapping):
        if "schedule" in value:
            inner = [f"{key}={_format(each)}" for key, each in value.items() if key != "schedule"]
            return f"{value['schedule']}({', '.join(inner)})"
        if set(value) == {"tensor"}:
            return f"tensor({_format(value['tensor'])})"
        return "{" + ", ".join(f"{_format(str(key))}: {_format(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_format(each) for each in value) + "]"
    raise SpecError(f"{brief(value)} cannot be written in a spec; use JSON or TOML.")
