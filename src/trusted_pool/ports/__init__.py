"""The small interfaces between use cases and adapters, each with its contract in prose.

Every contract has one suite in `tests/contract` that runs over every adapter, fakes included.
"""
