"""Scorers: what judges text.

`base.py` says what one is; every other file of the package holds scorers that the registry finds by name, and
`function.py` turns a user's own `module:function` into one.
"""
