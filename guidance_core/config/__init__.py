"""Stacks as text and plain data: the one-line spec, tables, JSON and TOML."""
