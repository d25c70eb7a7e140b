"""Arithmetic on predictions: conversions between prediction types, sums, statistics, named outputs."""
