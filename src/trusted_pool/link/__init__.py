"""The coordinator's line to a worker: over pinned TLS, and in memory for simulations."""
