"""What goes wrong in the adapter is not felt in the program that it observes."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

P = ParamSpec("P")

log = logging.getLogger("llmd_agents.llama_index")


def quietly(hook: Callable[P, None]) -> Callable[P, None]:
    """Makes a function that never raises. Of an exception its kind is logged: its text may quote prompts."""

    @wraps(hook)
    def called(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  (whatever it is, the program goes on)
            log.debug("%s gives no hints: %s", hook.__name__, type(error).__name__)

    return called
