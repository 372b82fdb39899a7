"""Checks of the exercises: one module a notebook, one function an exercise."""
