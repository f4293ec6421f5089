"""The client library: `PoolClient` for plain programs, `AsyncPoolClient` for asyncio."""

from trusted_pool.client.client import AsyncPoolClient
from trusted_pool.client.errors import (
    AnswerError,
    ClientError,
    IntegrityError,
    NoLongerWaitingError,
    PackError,
    RequestError,
    UnreachableError,
    UnsafePathError,
    UntrustedError,
)
from trusted_pool.client.fetch import Fetched
from trusted_pool.client.follow import LogPiece
from trusted_pool.client.pack import Pack, pack
from trusted_pool.client.settings import Settings
from trusted_pool.client.sync import PoolClient
from trusted_pool.client.upload import Upload, of_pack, open_file

__all__ = [
    "AnswerError",
    "AsyncPoolClient",
    "ClientError",
    "Fetched",
    "IntegrityError",
    "LogPiece",
    "NoLongerWaitingError",
    "Pack",
    "PackError",
    "PoolClient",
    "RequestError",
    "Settings",
    "UnreachableError",
    "UnsafePathError",
    "UntrustedError",
    "Upload",
    "of_pack",
    "open_file",
    "pack",
]
