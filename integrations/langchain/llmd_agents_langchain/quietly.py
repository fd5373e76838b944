"""What goes wrong in the adapter is not felt in the chain that it observes."""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

Hook = TypeVar("Hook", bound=Callable[..., None])

log = logging.getLogger("llmd_agents.langchain")


def quietly(hook: Hook) -> Hook:
    """Makes a function that never raises. Only an exception's kind is logged: its text may quote prompts."""

    @wraps(hook)
    def called(*args: Any, **kwargs: Any) -> None:
        try:
            hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  (whatever it is, the chain goes on)
            log.debug("%s gives no hints: %s", hook.__name__, type(error).__name__)

    return cast("Hook", called)
