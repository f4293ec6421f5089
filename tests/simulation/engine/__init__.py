"""The seeded simulation: the real coordinator and the real workers on one loop, in virtual time, under faults."""
