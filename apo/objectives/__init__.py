"""Objectives: what makes one method differ from another, one small class each.

An objective sees tensors, never files, tokenisers or loggers.  `base.py` says what one is; every other file of the
package is a family of methods and is found by the registry.
"""
