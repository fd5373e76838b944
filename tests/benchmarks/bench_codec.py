"""What the header codec costs: run as a script, it prints JSON. CPU time, in microseconds.

Sides take turns, and each figure is the best of many rounds, so that a busy machine tells nearly the same.
"""

import json
import time
from collections.abc import Callable

import http_sf

from llmd_agents.hints import (
    Forecast,
    ForkPosition,
    Hints,
    LoopPosition,
    Next,
    Program,
    Segment,
    SegmentType,
    Step,
    chain,
    decode_hints,
    encode_hints,
    segments_of,
)

ROUNDS = 200
CALLS = 25
TURN = SegmentType.CONVERSATION_TURN

TYPICAL = Hints(
    program=Program(id="essay-grading-3f2a91c04b7d", name="essay-grading", priority=70),
    step=Step(
        id="s12",
        branch="f1.3",
        kind="evaluate",
        model="llama-3.1-8b-instruct",
        agent="grader",
        parents=("s11",),
        fork=ForkPosition(id="f1", index=3, width=8),
        loop=LoopPosition(id="refine-l1", iteration=1, limit=3),
    ),
    extends=bytes(range(16)),
    segments=(
        Segment(type=TURN, digest=bytes(range(100, 116)), size=812),
        Segment(type=TURN, digest=bytes(range(200, 216)), size=90),
    ),
    forecast=Forecast(next=Next.TOOL, after=5.0, sigma=0.5),
)
CONVERSATION = {
    "model": "m",
    "messages": [
        {"role": "assistant" if turn % 2 else "user", "content": f"{turn}" + "x" * 15_000}
        for turn in range(40)
    ],
}
"""600 KB."""


def measure() -> dict[str, float]:
    """Returns microseconds of CPU per call, bytes of the header, and ratios.

    `http_sf_us` is what `http_sf` takes to parse the same header and to write it again, without any models.
    `first_turn_us` is what a first call with `CONVERSATION` adds: its segments, merged until they fit.
    """
    header = encode_hints(TYPICAL)
    parsed = http_sf.parse(header.encode(), tltype="dictionary")
    links = chain(CONVERSATION)

    def first_turn() -> str:
        return encode_hints(Hints(program=TYPICAL.program, step=TYPICAL.step, segments=segments_of(links)))

    best = _best_us(
        {
            "encode_us": lambda: encode_hints(TYPICAL),
            "decode_us": lambda: decode_hints(header),
            "http_sf_us": lambda: (http_sf.parse(header.encode(), tltype="dictionary"), http_sf.ser(parsed)),
        }
    )
    best |= _best_us({"first_turn_us": first_turn, "dumps_us": lambda: json.dumps(CONVERSATION)})
    both = best["encode_us"] + best["decode_us"]
    return {
        "encode_us": best["encode_us"],
        "decode_us": best["decode_us"],
        "encode_and_decode_us": both,
        "http_sf_us": best["http_sf_us"],
        "over_http_sf": both / best["http_sf_us"],
        "header_bytes": len(header),
        "first_turn_us": best["first_turn_us"],
        "first_turn_over_dumps": best["first_turn_us"] / best["dumps_us"],
        "first_turn_header_bytes": len(first_turn()),
    }


def _best_us(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for name, call in sides.items():
            calls = 2 if name == "dumps_us" else CALLS
            before = time.process_time()
            for _ in range(calls):
                call()
            best[name] = min(best[name], (time.process_time() - before) / calls * 1e6)
    return best


if __name__ == "__main__":
    print(json.dumps({name: round(value, 3) for name, value in measure().items()}, indent=1))
