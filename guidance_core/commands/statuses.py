"""The exit statuses of the command."""

from __future__ import annotations

OK, BROKEN, WRONG_USE, MISTAKE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 70, 130, 141
STATUSES = {
    OK: "success; for `check` and `dashboard`: everything that was checked passed",
    BROKEN: "for `check` and `dashboard`: something that was checked failed",
    WRONG_USE: "wrong use: an invalid option, spec, name or file; or a missing extra",
    MISTAKE: "a bug in guidance-core or in a plugin; GUIDANCE_CORE_TRACEBACK=1 shows where",
    INTERRUPTED: "interrupted with Ctrl-C",
    CLOSED_PIPE: "the reader of the output closed it, as `head` does",
}
"What each exit status means."
TRACEBACK = "GUIDANCE_CORE_TRACEBACK"
"When set, an error that nobody foresaw ends the command with its traceback."
