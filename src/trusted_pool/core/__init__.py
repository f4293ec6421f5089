"""The rules of the pool: state machines as tables, placement, retry, invariants.

Pure: nothing here does I/O, reads a clock or makes a random number. Times are seconds since the epoch and
come in as arguments.
"""
