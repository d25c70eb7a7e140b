"""Which of the shipped methods compose: every pair on the embedded model, in one process and on several ranks.

    python -m pairs [--write]      the table, printed or written into docs/composition.md

`usual` holds the parameters each method is tried with, `host` the model, `judged` what is found out about a stack.
"""
