"""All deliberate bugs. Each must be found, or the simulation is too weak."""

from simulation.engine import mutations_pool, mutations_worker
from simulation.engine.mutant import MUTANTS, Mutant, Mutation

__all__ = ["MUTANTS", "Mutant", "Mutation", "mutations_pool", "mutations_worker"]
