"""Parameters written out whole, so that processes can compare them; values that cannot be written are refused."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterator
from typing import Any

import attrs
from torch import Tensor

from guidance_core.algebra.checksum import checksum, parts_of
from guidance_core.algebra.digest import Writer, digest_of_text, name_of
from guidance_core.errors import ConfigurationError

_LONG = 200
"Characters of a text that is not replaced by a number: an object held in many places is written in each."


class IncomparableError(Exception):
    """A value holds something that two processes cannot compare."""


def fingerprint_of(whose: str, parameters: Iterator[tuple[str, Any]], advice: str) -> int:
    """Return a number that stands for parameters, by name, with everything that they hold.

    Functions count by their code, defaults and closures, objects by their class and state. Tensors on devices are
    waited for.

    Raises:
        ConfigurationError: a parameter cannot be compared, such as one that holds a lock or a generator.
    """
    texts = []
    for name, value in parameters:
        try:
            texts.append(f"{name}={_Comparing().text(value)}")
        except Exception as error:  # whatever an object raises when it is asked for its state
            what = str(error) if isinstance(error, IncomparableError) else f"a {type(value).__name__}"
            raise ConfigurationError(
                f"{whose}: {name} holds {what}, which cannot be compared between ranks. Use numbers, names, tensors, "
                f"functions, or frozen attrs classes with such fields; {advice}."
            ) from None
    return digest_of_text("\x1f".join(texts))


class _Comparing(Writer):
    """Writes everything that a value holds."""

    def __init__(self) -> None:
        self._open: dict[int, Any] = {}
        "What is being written, by id: objects may hold themselves."
        self._written: dict[int, tuple[Any, str]] = {}
        "What was written, by id, and how: many objects may hold one."

    def text(self, value: Any) -> str:
        if value is None or isinstance(value, int | float | str):
            return super().text(value)
        if id(value) in self._open:
            return f"again {list(self._open).index(id(value))}"
        if id(value) in self._written:
            return self._written[id(value)][1]
        self._open[id(value)] = value
        written = super().text(value)
        if len(written) > _LONG:
            written = f"#{digest_of_text(written)}"
        del self._open[id(value)]
        self._written[id(value)] = value, written
        return written

    def fields_of(self, value: Any) -> list[tuple[str, Any]] | None:
        kind = type(value)
        if attrs.has(kind):
            return [(each.name, getattr(value, each.name)) for each in attrs.fields(kind) if each.eq or each.init]
        if dataclasses.is_dataclass(kind):
            fields = dataclasses.fields(value)
            return [(each.name, getattr(value, each.name)) for each in fields if each.compare or each.init]
        return None

    def bits_of(self, tensor: Tensor) -> str:
        return ",".join(str(checksum(part).item()) for part in parts_of(tensor))

    def other(self, value: Any) -> str:
        if isinstance(value, type):
            return f"class {name_of(value)}"
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, types.MethodType):
            return f"method {self.text(value.__self__)} {self.text(value.__func__)}"
        if isinstance(value, types.BuiltinFunctionType):
            owner = value.__self__
            return f"builtin {self.text(owner)} {value.__qualname__}"
        return self._of_state(value)

    def _of_function(self, function: types.FunctionType) -> str:
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        used = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
        parts = [
            f"{function.__module__}.{function.__qualname__}",
            *_code(function.__code__, self),
            self.text([function.__defaults__, function.__kwdefaults__, cells, vars(function)]),
            _Outside().text(used),
        ]
        return f"function {digest_of_text(chr(31).join(parts))}"

    def _of_state(self, value: Any) -> str:
        """Write an object as pickle would: how it is made anew, from what, with which state."""
        try:
            reduced = value.__reduce_ex__(2)
        except Exception:
            raise IncomparableError(f"a {type(value).__name__}") from None
        if isinstance(reduced, str):
            return f"global {name_of(type(value))} {reduced} {self.text(getattr(value, '__wrapped__', None))}"
        make, given, *rest = reduced
        state, *items = [*rest, None, None, None][:3]
        return f"{name_of(type(value))} {self.text(make)} {self.text(given)} {self.text(state)}" + self.text(
            [list(each) for each in items if each is not None]
        )


class _Outside(Writer):
    """Writes what a function finds in its module: data whole, functions by their code, other things by their kind."""

    def other(self, value: Any) -> str:
        if isinstance(value, types.FunctionType):
            return (
                f"{value.__module__}.{value.__qualname__} {digest_of_text(chr(31).join(_code(value.__code__, self)))}"
            )
        if isinstance(value, type):
            return name_of(value)
        return value.__name__ if isinstance(value, types.ModuleType) else name_of(type(value))


def _names(code: types.CodeType) -> Iterator[str]:
    """Yield the names that a function, and those inside it, look up."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _names(inner)


def _code(code: types.CodeType, writer: Writer) -> Iterator[str]:
    yield code.co_code.hex()
    yield writer.text([code.co_names, code.co_varnames, code.co_freevars])
    for each in code.co_consts:
        if isinstance(each, types.CodeType):
            yield from _code(each, writer)
        else:
            yield writer.text(each)
