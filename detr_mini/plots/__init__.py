"""Figures: one module a notebook, all on matplotlib's figure objects, none on pyplot's hidden state."""
