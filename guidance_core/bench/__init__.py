"""Measurements against peers and floors: interleaved in one run, medians and ratios."""
