"""Broken plugins and executors, each with one mistake that an author could make, and the check that is to find it.

from zoo.everything import ZOO
python -m zoo                  which checks find which mistake
"""
