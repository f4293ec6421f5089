"""The coordinator's use cases: submit, dispatch, watch, collect, reconcile, cancel, read.

Each loads, decides by `core`, commits by compare-and-swap, and acts only after the commit.
"""
