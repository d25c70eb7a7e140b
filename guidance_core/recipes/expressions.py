"""The small arithmetic of recipes: `=guidance_scale + 1`, over a recipe's parameters.

numbers, "text", true, false, none, names of parameters
+ - * /        min(a, b)  max(a, b)  above(a)  below(a)
interval[0]    len(interval)
== != < <= > >=  and  or  not      a if b else c

`above(a)` is next to `a`: a window that begins there leaves `a` out, also where `a` is rounded. So is `below(a)`.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from guidance_core.errors import ConfigurationError, SpecError, brief, suggest
from guidance_core.parameters.phases import Counted, Phases
from guidance_core.parameters.schedules import ROUNDING, Cosine, Linear, Table, Within
from guidance_core.parameters.values import PerOutput, TensorValue

MARK = "="
"What a value begins with that is an expression."
_WORDS = {"true": True, "false": False, "none": None}
_ARITHMETIC: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def _length(given: Any) -> int:
    if not isinstance(given, list | tuple):
        raise TypeError(f"{brief(given)} is not a list")
    return len(given)


_BESIDE = 2 * ROUNDING
"So far from a number is what a window tells from it."
_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "above": lambda value: value + _BESIDE,
    "below": lambda value: value - _BESIDE,
    "len": _length,
    "max": max,
    "min": min,
}
_MOST = 500
"Characters of an expression."


@attrs.frozen
class Expression:
    """An expression over the parameters of a recipe."""

    text: str = attrs.field()
    tree: ast.expr = attrs.field(init=False, eq=False, repr=False)

    @tree.default
    def _parsed(self) -> ast.expr:
        if len(self.text) > _MOST:
            raise SpecError(f"an expression has at most {_MOST} characters; got {len(self.text)}.")
        try:
            tree = ast.parse(self.text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise SpecError(f"{brief(self.text)} is not an expression, such as 'guidance_scale + 1'.") from None
        for node in ast.walk(tree):
            if not isinstance(node, _ALLOWED) or (isinstance(node, ast.Constant) and not _is_plain(node.value)):
                raise SpecError(
                    f"the expression {brief(self.text)} has a part that is not allowed; use numbers, parameters, "
                    "+ - * /, above, below, len, max, min, parts of a list (a[0]), comparisons, and, or, not, and "
                    "'a if b else c'."
                )
            if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS):
                raise SpecError(f"the expression {brief(self.text)} calls something else than {', '.join(_FUNCTIONS)}.")
        return tree

    @property
    def names(self) -> set[str]:
        """The parameters that it reads."""
        functions = {id(node.func) for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        named = (node for node in ast.walk(self.tree) if isinstance(node, ast.Name) and id(node) not in functions)
        return {node.id for node in named} - set(_WORDS)

    def of(self, values: Mapping[str, Any]) -> Any:
        """Return its value.

        Raises:
            ConfigurationError: a parameter has a value with which it cannot be computed.
        """
        try:
            return _value(self.tree, values)
        except (TypeError, IndexError, ZeroDivisionError, OverflowError) as error:
            given = ", ".join(f"{name}={brief(values.get(name))}" for name in sorted(self.names))
            raise ConfigurationError(f"{self.text!r} cannot be computed with {given}: {error}.") from None


_ALLOWED = (
    *(ast.BinOp, ast.UnaryOp, ast.USub, ast.Not, ast.Compare, ast.BoolOp, ast.And, ast.Or, ast.IfExp, ast.Call),
    *(ast.Subscript, ast.Name, ast.Load, ast.Constant, *_ARITHMETIC, *_COMPARISONS),
)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | float | str) and not isinstance(value, complex)


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant():
            return node.value
        case ast.Name():
            return _WORDS[node.id] if node.id in _WORDS else values[node.id]
        case ast.BinOp():
            return _computed(_ARITHMETIC[type(node.op)], _value(node.left, values), _value(node.right, values))
        case ast.UnaryOp(op=ast.USub()):
            return _computed(operator.mul, _value(node.operand, values), -1.0)
        case ast.UnaryOp():
            return not _value(node.operand, values)
        case ast.Call(func=ast.Name(id="len")):
            return _length(*(_value(each, values) for each in node.args))
        case ast.Subscript():
            return _part(_value(node.value, values), _value(node.slice, values))
        case ast.Call(func=ast.Name(id=name)):
            return _FUNCTIONS[name](*(_number(_value(each, values)) for each in node.args))
        case ast.IfExp():
            return _value(node.body if _value(node.test, values) else node.orelse, values)
        case ast.BoolOp():
            results = (_value(each, values) for each in node.values)
            return all(results) if isinstance(node.op, ast.And) else any(results)
        case ast.Compare():
            first = _value(node.left, values)
            for comparison, other in zip(node.ops, node.comparators, strict=True):
                second = _value(other, values)
                is_order = not isinstance(comparison, ast.Eq | ast.NotEq)
                if is_order:
                    first, second = _number(first), _number(second)
                if not _COMPARISONS[type(comparison)](first, second):
                    return False
                first = second
            return True
    raise TypeError(f"unexpected {type(node).__name__}")  # pragma: no cover


def _part(given: Any, index: Any) -> Any:
    """Return one part of a list, counted from 0."""
    _length(given)
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(given):
        raise IndexError(f"{brief(list(given))} has no part {brief(index)}")
    return given[index]


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{brief(value)} is not a number")
    return value


def _computed(operation: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
    """Compute with two numbers, or with a number and something made of numbers."""
    if isinstance(one, int | float) and isinstance(other, int | float):
        return operation(one, other)
    if isinstance(other, int | float) and not isinstance(other, bool):
        return mapped(one, lambda each: operation(each, other))
    if operation is operator.truediv:
        raise TypeError(f"{brief(other)} is not a number to divide by")
    _number(one)
    return mapped(other, lambda each: operation(one, each))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a value in which every number is changed alike, by a factor or an offset: of outputs, tensors, schedules.

    Raises:
        TypeError: it is something else, such as a schedule whose values cannot be changed so.
    """
    if isinstance(value, PerOutput):
        return PerOutput({output: mapped(each, change) for output, each in value.items()})
    if isinstance(value, TensorValue):
        return TensorValue(change(value.tensor))
    if isinstance(value, Table):
        return attrs.evolve(value, rows=tuple((bound, mapped(each, change)) for bound, each in value.rows))
    if isinstance(value, Phases):
        return attrs.evolve(value, values=tuple(mapped(each, change) for each in value.values))
    if isinstance(value, Counted):
        parts = "+".join(f"{mapped(each, change)!r}x{count}" for each, count in value.counts)
        rest = None if value.otherwise is None else mapped(value.otherwise, change)
        return attrs.evolve(value, parts=parts, otherwise=rest)
    if isinstance(value, Linear | Cosine):
        return attrs.evolve(value, start=mapped(value.start, change), stop=mapped(value.stop, change))
    if isinstance(value, Within):
        return attrs.evolve(value, value=mapped(value.value, change), otherwise=mapped(value.otherwise, change))
    return change(_number(value))


def check_names(expression: Expression, known: Mapping[str, Any]) -> None:
    """Raise `SpecError` if an expression reads a name that is not a parameter."""
    for name in sorted(expression.names - set(known)):
        raise SpecError(
            f"the expression {expression.text!r} reads {name!r}, which is not a parameter.{suggest(name, known)}"
        )
