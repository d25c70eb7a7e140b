"""Recipes beside the engines' own code: the same numbers over drawn inputs."""
