"""What is told of retained context."""

from llmd_agents.hints import Forecast, Hints, Next, Program, Step
from llmd_agents.hints.limits import PROGRAMS_SHOWN_MAX
from tests.device.real_cache import BLOCK, RealCache
from tests.device.test_books import prompt, retain


def waits(program: str) -> Hints:
    return Hints(
        program=Program(id=program), step=Step(id="s"), forecast=Forecast(next=Next.TOOL, after=9000.0)
    )


def test_by_the_program_that_brought_it() -> None:
    cache = RealCache(64)
    cache.run(prompt("a", 4 * BLOCK), [("a", 4 * BLOCK)], hints=waits("p"))
    cache.run(prompt("b", 3 * BLOCK), [("b", 3 * BLOCK)], hints=waits("q"))
    cache.run(prompt("c", 2 * BLOCK), [("c", 2 * BLOCK)])
    cache.books.retain(retain("c", after=9.0), cache.now)
    assert cache.books.retained_by_program(cache.now) == {"p": 16, "q": 12, "": 8}
    assert cache.books.retained(cache.now) == {"": 36}


def test_of_many_programs_those_that_have_most() -> None:
    cache = RealCache(2 * PROGRAMS_SHOWN_MAX)
    cache.run(prompt("large", 2 * BLOCK), [("large", 2 * BLOCK)], hints=waits("large"))
    for number in range(PROGRAMS_SHOWN_MAX):
        cache.run([10_000 + number] * BLOCK, [(f"{number}", BLOCK)], hints=waits(f"p{number}"))
    told = cache.books.retained_by_program(cache.now)
    assert len(told) == PROGRAMS_SHOWN_MAX
    assert told["large"] == 2 * BLOCK
