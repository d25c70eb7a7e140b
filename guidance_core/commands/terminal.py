"""What the output of a command meets: a terminal or none, an encoding with few letters, a pipe that somebody closed."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

_PLAIN = {
    **{"–": "-", "—": "-", "−": "-", "‑": "-", "…": "...", "’": "'", "‘": "'", "“": '"', "”": '"', "·": "*", "×": "x"},
    **{"≥": ">=", "≤": "<=", "≈": "~", "→": "->", "←": "<-", "±": "+-", "‖": "||", "∥": "||", "′": "'", "∞": "inf"},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "η": "eta", "κ": "kappa", "λ": "lambda"},
    **{"μ": "mu", "σ": "sigma", "τ": "tau", "φ": "phi", "ω": "omega", "Σ": "sum", "Δ": "Delta", "µ": "u", "∈": "in"},
    **{"é": "e", "ö": "o", "ü": "u", "ä": "a", "⟨": "<", "⟩": ">", "ψ": "psi", "√": "sqrt", "⊥": "_|_", "\xa0": " "},
}
"What stands for a character that an encoding lacks."
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_quiet = False


def plain(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks in its letters, as an error handler of codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda raised: f"^{raised[0].translate(_RAISED)}", text)
    return "".join(_PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in text), error.end


def write_in_any_encoding() -> None:
    """Have stdout and stderr take every text: names and texts given on the command line may not be encodable."""
    codecs.register_error("guidance-core-plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="guidance-core-plain")


def end_silently() -> None:
    """Have nothing more written, and nothing said about it: whoever read the output has closed it."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())


def is_quiet() -> bool:
    """Whether the running command was given --quiet."""
    return _quiet


@contextlib.contextmanager
def quietly(*, keeps_answer: bool) -> Iterator[None]:
    """Hold back what is printed inside the block, and print it to stderr if the block ends with an error.

    Args:
        keeps_answer: print as always, as with --json; only progress and remarks are left out, by `is_quiet`.
    """
    global _quiet
    held = io.StringIO()
    _quiet = True
    try:
        if keeps_answer:
            yield
            return
        with contextlib.redirect_stdout(held):
            yield
    except BaseException:
        sys.stderr.write(held.getvalue())
        raise
    finally:
        _quiet = False
