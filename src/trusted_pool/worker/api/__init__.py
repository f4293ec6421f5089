"""The HTTP face of the worker: routes that translate, and nothing else."""
