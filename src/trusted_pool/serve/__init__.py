"""How both daemons serve HTTP: uvicorn's parser under our own listener, limits and lifecycle."""

from trusted_pool.serve.connection import Limits
from trusted_pool.serve.listener import ServeError
from trusted_pool.serve.server import Server

__all__ = ["Limits", "ServeError", "Server"]
