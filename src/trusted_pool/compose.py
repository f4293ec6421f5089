"""The composition root: a wiring list. It alone names concrete adapters, clock and randomness."""
