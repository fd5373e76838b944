"""The program that the doctor declares, and the prompts that it sends."""

from __future__ import annotations

import secrets
from typing import Any, Final

from llmd_agents.hints import Forecast, Hints, Next, Program, Step, chain, segments_of

PRIORITY: Final = 40
"""Below everybody's default: nothing waits for the doctor."""

_LINES: Final = 200


class Probe:
    """One run of the doctor, as a program."""

    def __init__(self) -> None:
        self.program = Program(
            id=f"doctor-{secrets.token_hex(6)}", name="llmd-agents doctor", priority=PRIORITY
        )
        self._steps = 0

    def hints(self, model: str, messages: list[dict[str, Any]], *, last: bool = False) -> Hints:
        """Returns what a client would declare of a call."""
        self._steps += 1
        forecast = Forecast(next=Next.END) if last else Forecast(next=Next.TOOL, after=5, output_tokens=1)
        return Hints(
            program=self.program,
            step=Step(
                id=f"s{self._steps}",
                kind="probe",
                model=model if model.isprintable() and len(model) <= 128 else None,
                parents=(f"s{self._steps - 1}",) if self._steps > 1 else (),
            ),
            segments=segments_of(chain({"model": model, "messages": messages})),
            forecast=forecast,
        )


def short_prompt() -> list[dict[str, Any]]:
    return [{"role": "user", "content": "Say ok."}]


def long_prompt() -> list[dict[str, Any]]:
    """Returns about 2,500 tokens that nobody has sent before; providers cache prompts from 1,024 on."""
    lines = (f"Line {number}: nothing to be seen here, and nothing to be done." for number in range(_LINES))
    begun = f"Probe {secrets.token_hex(8)}.\n" + "\n".join(lines)
    return [{"role": "system", "content": begun}, {"role": "user", "content": "Say ok."}]
