"""The contract's limits, in one place so that client, router and engine agree on them."""

from typing import Final

HEADER_MAX_BYTES: Final = 2048
"""Longest `x-llmd-hints` value that is sent or read, in bytes."""

ACK_MAX_BYTES: Final = 2048
"""Longest `x-llmd-ack` value that is sent, in bytes."""

ID_MAX_CHARS: Final = 64
"""Longest id."""

NAME_MAX_CHARS: Final = 128
"""Longest name."""

PARENTS_MAX: Final = 64
"""Most parents that one step names; a join over more branches names the fork instead."""

SEGMENTS_MAX: Final = 4096
"""Most segments that one step lists."""

FAN_OUT_MAX: Final = 100_000
"""Widest fork."""

ITERATION_MAX: Final = 1_000_000
"""Last iteration of a loop."""

SIZE_MAX: Final = 10**12
"""Largest size of one segment, in bytes or tokens."""

SECONDS_MAX: Final = 10**9
"""Longest duration that a hint may state, in seconds (about 30 years)."""

EVENTS_PER_BATCH_MAX: Final = 1000
"""Most events in one batch."""

EVENTS_BODY_MAX_BYTES: Final = 1 << 20
"""Longest body of a batch of events, in bytes."""


PROGRAMS_SHOWN_MAX: Final = 256
"""Most programs that an engine tells retained context of."""

ACTIONS_PER_MESSAGE_MAX: Final = 1000
"""Most directives in one message."""

DIRECTIVES_BODY_MAX_BYTES: Final = 8 << 20
"""Longest body of a message of directives, in bytes."""
