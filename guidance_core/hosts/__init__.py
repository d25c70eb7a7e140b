"""Adapters to engines and their models; each needs what it adapts to (the extra `hosts`)."""
