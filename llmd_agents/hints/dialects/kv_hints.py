"""The `kv_hints` envelope that vLLM, SGLang and Dynamo share: what one step says of the cache.

It goes from a trusted router to an engine, with the request that it speaks of or to `POST /v1/agent/kv`, once
the step has been answered. Digests name the context; which blocks that is the engine knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..models import Hints, Lifetime, Next, Scope
from .dialect import Dialect, Surroundings
from .quantile import SIGMA_UNKNOWN, soon_sure

if TYPE_CHECKING:
    from ..directives import Directive

EXPIRY_Q = 0.95
"""An estimate counts until the wait has outlasted this share of waits like it."""


def step_directives(hints: Hints) -> list[tuple[str, Directive]]:
    """Returns what a step that has been answered asks of the engine that ran it: (action id, directive).

    A forecast of when the branch goes on is a retain. A last step, and context that mattered for this step
    only, is a release. Prefetches need to know what is where, and so are the router's own.
    """
    from ..directives import Release, Retain  # here, as only routers need it

    digest, forecast = hints.digest, hints.forecast
    if digest is None:
        return []
    if forecast is not None and forecast.next is Next.END:
        return [("release", Release(digest=digest, keep=_outlives(hints, ends=True)))]
    actions: list[tuple[str, Directive]] = []
    kept = _outlives(hints, ends=False)
    if kept != digest:
        actions.append(("release", Release(digest=digest, keep=kept)))
    if kept is not None and forecast is not None and forecast.after is not None:
        sigma = SIGMA_UNKNOWN if forecast.sigma is None else forecast.sigma
        expires = round(soon_sure(forecast.after, sigma, EXPIRY_Q), 3)
        actions.append(("retain", Retain(digest=kept, after=forecast.after, sigma=sigma, expires=expires)))
    return actions


def _outlives(hints: Hints, *, ends: bool) -> bytes | None:
    """Returns the longest prefix that matters after the step; None if none does.

    What the step extends counts as such: which part of it others share is not told again.

    Args:
        ends: the branch ends with this step; then only what other branches and programs share lives on.
    """
    longest = hints.extends
    for segment in hints.segments:
        if segment.effective_lifetime == Lifetime.STEP:
            break
        shared = segment.effective_scope is Scope.TENANT or segment.effective_lifetime in (
            Lifetime.PERSISTENT,
            Lifetime.PROGRAM,
        )
        if ends and not shared:
            break
        longest = segment.digest
    return longest


def envelope(hints: Hints) -> dict[str, Any] | None:
    """Returns the envelope of one step as JSON; None if it asks for nothing. The same step, the same ids."""
    from ..directives import encode_directives

    actions = step_directives(hints)
    if not actions:
        return None
    decoded: dict[str, Any] = json.loads(encode_directives(f"{hints.program.id}/{hints.step.id}", actions))
    return decoded


def _fields(hints: Hints, body: Mapping[str, Any], around: Surroundings) -> dict[str, Any]:
    if body.get("kv_hints") is not None or (made := envelope(hints)) is None:
        return {}
    return {"kv_hints": made}


KV_HINTS = Dialect(
    name="kv_hints",
    stack="vLLM, SGLang, Dynamo (router to engine)",
    receives=(
        ("`kv_hints` action `retain`", "when the branch goes on: median, sigma, expiry"),
        (
            "`kv_hints` action `release`",
            "context that mattered for this step only; at the branch's end, what it added and nobody shares",
        ),
    ),
    loses="graph, priority, prefetch (needs to know what is where: the router adds its own)",
    fields=_fields,
    sender="router",
)
