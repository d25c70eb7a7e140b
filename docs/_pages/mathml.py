"""Formulas as MathML, which browsers set themselves: no script, no font, and nothing from a network."""

from __future__ import annotations

from docutils import nodes
from latex2mathml.converter import convert


def typeset(translator, node):
    """Write a formula into the page, inline or as a block that scrolls where it is too wide."""
    is_block = isinstance(node, nodes.math_block)
    made = convert(node.astext(), display="block" if is_block else "inline")
    translator.body.append(f'<div class="formula">{made}</div>' if is_block else made)
    raise nodes.SkipNode
