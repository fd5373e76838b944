"""Divergences grouped by cause, and the sentences that tell of them."""

import dataclasses

from llmd_agents.linter import Cause, Divergence, Excerpt, Findings, Prices, live_message, sentence
from llmd_agents.linter.findings import CAUSES_MAX

SECRET = "the password is swordfish"

DIVERGENCE = Divergence(
    branch="b1",
    model="m",
    cause=Cause.TIMESTAMP,
    message=3,
    role="user",
    field="content",
    byte=812,
    what="a time changed in a user message",
    kept_bytes=1000,
    lost_bytes=164_800,
    lost_tokens=41_200,
    excerpt=Excerpt(SECRET, SECRET, 3),
)


def test_a_sentence_says_where_what_and_how_much() -> None:
    said = (
        "diverged at message 3, byte 812: a time changed in a user message, "
        "41,200 tokens recomputed each turn"
    )
    assert sentence(DIVERGENCE) == said
    assert sentence(DIVERGENCE, Prices(2.5, 0.25)) == f"{said}, about $0.09 at the configured price"
    assert sentence(DIVERGENCE, Prices(2.5, 2.5)) == f"{said}, about $0.00 at the configured price"
    assert sentence(DIVERGENCE, Prices(0.001)) == f"{said}, about $4.1e-05 at the configured price"


def test_places_outside_of_messages() -> None:
    places = [
        dataclasses.replace(DIVERGENCE, **changes).where
        for changes in (
            {"field": "content[1].text"},
            {"message": None, "field": "tools[2]"},
            {"token": 22_208},
        )
    ]
    assert places == ["message 3, content[1].text, byte 812", "tools[2], byte 812", "token 22,208"]


def test_no_contents_where_a_log_could_be() -> None:
    finding = Findings()
    finding.add(DIVERGENCE)
    told = [
        live_message(DIVERGENCE),
        sentence(DIVERGENCE),
        repr(DIVERGENCE),
        DIVERGENCE.key,
        DIVERGENCE.remedy,
    ]
    told += [f"{one!r} {one.sentence}" for one in finding]
    assert not [text for text in told if "swordfish" in text]


def test_each_cause_is_new_once_whatever_turn_and_branch_it_hits() -> None:
    findings = Findings(Prices(2.5))
    moved = dataclasses.replace(DIVERGENCE, message=5, byte=9, branch="b2", lost_tokens=800)
    other = dataclasses.replace(DIVERGENCE, cause=Cause.RANDOM_ID, lost_tokens=10)
    assert [findings.add(one) for one in (DIVERGENCE, moved, other, moved)] == [True, False, True, False]
    worst, least = findings
    assert (worst.times, worst.lost_tokens, worst.branches) == (3, 42_800, {"b1", "b2"})
    assert worst.sentence == (
        "diverged at message 3, byte 812: a time changed in a user message, 14,267 tokens recomputed each "
        "turn, about $0.11 at the configured price in 3 turns"
    )
    assert least.sentence.endswith("10 tokens recomputed, about $2.5e-05 at the configured price")
    assert findings.lost_tokens == 42_810
    assert findings.cost is not None
    assert round(findings.cost, 6) == 0.107025


def test_without_prices_nothing_is_said_of_costs() -> None:
    findings = Findings(Prices(models={}))
    findings.add(DIVERGENCE)
    findings.add(DIVERGENCE)
    (finding,) = findings
    assert (finding.cost, findings.cost) == (None, None)
    assert finding.sentence.endswith("41,200 tokens recomputed each turn in 2 turns")


def test_the_number_of_causes_is_bounded() -> None:
    findings = Findings()
    for index in range(CAUSES_MAX + 50):
        name = "".join(chr(ord("a") + int(digit)) for digit in str(index))
        findings.add(dataclasses.replace(DIVERGENCE, field=name))
    assert len(findings) == CAUSES_MAX
    assert findings.add(DIVERGENCE) is False
