"""Trusted Pool: run jobs on machines you trust."""

__version__ = "0.1.0"
