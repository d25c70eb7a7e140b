"""The exit statuses of the command."""

from __future__ import annotations

OK, BROKEN, WRONG_USE, MISTAKE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 70, 130, 141
STATUSES = {
    OK: "what was asked for is done; of `check` and `dashboard`: all that was checked holds",
    BROKEN: "of `check` and `dashboard`: something does not hold",
    WRONG_USE: "wrong use: an option, a spec, a name or a file; or an extra that is missing",
    MISTAKE: "a mistake of guidance-core or of a plugin; GUIDANCE_CORE_TRACEBACK=1 shows where",
    INTERRUPTED: "interrupted with Ctrl-C",
    CLOSED_PIPE: "whoever read the output closed it, as `head` does",
}
"What each exit status means."
TRACEBACK = "GUIDANCE_CORE_TRACEBACK"
"When set, an error that nobody foresaw ends the command with its traceback."
