"""`tpool`, killed at a named point: `python crashing.py POINT VERB …` runs `tpool VERB …` until it comes to the point.

A point is MODULE:NAME:MOMENT[:WORD]. NAME is a function or a method of the module; MOMENT is `before` its work, `after`
it (for one that yields: after the first piece); WORD must occur in its arguments. There the process gets SIGKILL.
"""

import asyncio
import functools
import importlib
import inspect
import os
import signal
import sys
from typing import Any


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _set(point: str) -> None:
    module, name, moment, *words = point.split(":")
    holder: Any = importlib.import_module(module)
    *classes, last = name.split(".")
    for part in classes:
        holder = getattr(holder, part)
    work = getattr(holder, last)

    def here(*given: object) -> bool:
        return not words or any(words[0] in repr(argument) for argument in given)

    if inspect.isasyncgenfunction(work):

        @functools.wraps(work)
        async def wrapped(*given: Any, **named: Any) -> Any:
            async for piece in work(*given, **named):
                yield piece
                if moment == "after" and here(*given, named):
                    _die()

    elif asyncio.iscoroutinefunction(work):

        @functools.wraps(work)
        async def wrapped(*given: Any, **named: Any) -> Any:
            if moment == "before" and here(*given, named):
                _die()
            answer = await work(*given, **named)
            if moment == "after" and here(*given, named):
                _die()
            return answer

    else:

        @functools.wraps(work)
        def wrapped(*given: Any, **named: Any) -> Any:
            if moment == "before" and here(*given, named):
                _die()
            answer = work(*given, **named)
            if moment == "after" and here(*given, named):
                _die()
            return answer

    setattr(holder, last, wrapped)


if __name__ == "__main__":
    from trusted_pool.cli.main import main

    _set(sys.argv[1])
    sys.argv[:] = ["tpool", *sys.argv[2:]]
    main()
