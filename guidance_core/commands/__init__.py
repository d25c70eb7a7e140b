"""The command `guidance-core`. Needs the extra `cli`."""
