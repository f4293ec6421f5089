"""The composition root: wiring lists. Only here are concrete adapters, clock and randomness named.

`system` is what both daemons need; `coordinator` and `worker` wire one each.
"""
