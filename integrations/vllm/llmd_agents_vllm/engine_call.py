"""The way from the API server's process to the connector in the engine's: one method on vLLM's `EngineCore`.

vLLM has a general call from one to the other, which finds the method by its name; a general plugin puts ours
there in every process. Arguments and answers are JSON.
"""

import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final

from llmd_agents.hints import Directive, DirectiveOutcome, decode_directives

from .connector import AgentConnector, NotInUse
from .device.directives import Ahead

if TYPE_CHECKING:
    from vllm.v1.engine.core import EngineCore

log = logging.getLogger("vllm.llmd_agents")

METHOD: Final = "llmd_agents"


def install() -> None:
    """Adds the method to `EngineCore`."""
    from vllm.v1.engine.core import EngineCore

    setattr(EngineCore, METHOD, _answer)


def _answer(core: "EngineCore", what: str, argument: str) -> str:
    """Answers a call; never raises, since an error here would be the engine's.

    Args:
        what: `kv`, `direct`, `residency` or `brought`.
        argument: JSON.

    Returns:
        JSON: {"answer": …}, or {"unavailable": why}.
    """
    try:
        connector = _connector(core.scheduler.get_kv_connector())
        if connector is None:
            raise NotInUse("the engine runs without AgentConnector")
        return json.dumps({"answer": _ASKED[what](connector, json.loads(argument), time.monotonic())})
    except NotInUse as error:
        return json.dumps({"unavailable": str(error)})
    except Exception:
        log.exception("a call to the engine failed; the engine goes on")
        return json.dumps({"unavailable": "the call failed; the engine's log says why"})


def _connector(connector: Any) -> AgentConnector | None:
    """Returns ours, alone or composed."""
    if isinstance(connector, AgentConnector):
        return connector
    for child in getattr(connector, "sub_connectors", ()):
        if (found := _connector(child)) is not None:
            return found
    return None


def _kv(connector: AgentConnector, given: Any, now: float) -> Any:
    return connector.ask(lambda side: side.kv(now)).model_dump(mode="json")


def _direct(connector: AgentConnector, given: Any, now: float) -> Any:
    """Carries out the actions of a message, each answered as {"outcome": …} or {"ahead": …}.

    Raises:
        NotInUse: if the connector does none. Once it has done one, what it cannot do any more is rejected.
    """
    answers: list[dict[str, Any]] = []
    for action in decode_directives(given.encode()).actions:
        answer: DirectiveOutcome | Ahead
        if isinstance(action, DirectiveOutcome):
            answer = action
        else:
            try:
                answer = _carry_out(connector, action, now)
            except NotInUse as error:
                if not answers:
                    raise
                answer = DirectiveOutcome(action_id=action[0], outcome="rejected", reason=str(error))
        if isinstance(answer, Ahead):
            ahead = {"action_id": answer.action_id, "tokens": answer.tokens, "salt": answer.salt}
            answers.append({"ahead": ahead})
        else:
            answers.append({"outcome": answer.model_dump(mode="json")})
    return answers


def _carry_out(
    connector: AgentConnector, action: tuple[str, Directive], now: float
) -> DirectiveOutcome | Ahead:
    return connector.ask(lambda side: side.carry_out(*action, now))


def _residency(connector: AgentConnector, given: Any, now: float) -> Any:
    since, epoch = given["since"], given["epoch"]
    batches = connector.ask(lambda side: side.residency(since, epoch, now))
    return [batch.model_dump(mode="json") for batch in batches]


def _brought(connector: AgentConnector, given: Any, now: float) -> Any:
    tokens = int(given)
    connector.ask(lambda side: side.brought(tokens))


_ASKED: Final = {"kv": _kv, "direct": _direct, "residency": _residency, "brought": _brought}
