"""What is looked up, loaded and written, request by request, without an engine."""

from collections import Counter
from pathlib import Path

import pytest
from vllm import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.output import KVConnectorBlockState, SchedulerOutput
from vllm.v1.request import Request

from llmd_agents_vllm.directory_store.connector import Settings
from llmd_agents_vllm.directory_store.plan import Done, Plan
from llmd_agents_vllm.directory_store.planner import SEEN_FOR_S, Planner
from llmd_agents_vllm.directory_store.store import BlockFiles
from llmd_agents_vllm.options import BadOptions

NAMESPACE, BLOCK = b"n" * 16, 4


def request(name: str = "r", tokens: int = 18, *, block_tokens: int = BLOCK) -> Request:
    init_none_hash(sha256)
    return Request(
        name,
        list(range(tokens)),
        SamplingParams(max_tokens=100),
        None,
        block_hasher=get_request_block_hasher(block_tokens, sha256),
    )


class Directory:
    """The files of some ranks, with a planner over them."""

    def __init__(self, root: Path, *, ranks: int = 1, save_outputs: bool = True) -> None:
        self.workers = [BlockFiles(root, NAMESPACE, rank=rank, layout=b"l" * 16) for rank in range(ranks)]
        self.files = [BlockFiles(root, NAMESPACE, rank=rank) for rank in range(ranks)]
        self.planner = Planner(self.files, NAMESPACE, BLOCK, save_outputs=save_outputs)

    def put(self, *hashes: bytes) -> None:
        for block_hash in hashes:
            for worker in self.workers:
                worker.write(block_hash, memoryview(b"payload"), 0.0)


def step(scheduled: dict[Request, int], groups: int = 1) -> SchedulerOutput:
    """A step that computes that many tokens of each request; block i of group g is 100 g + i."""
    output = SchedulerOutput.make_empty()
    output.num_scheduled_tokens = {each.request_id: tokens for each, tokens in scheduled.items()}
    ids = tuple([100 * group + i for i in range(100)] for group in range(groups))
    output.kv_connector_block_state = KVConnectorBlockState(
        set(output.num_scheduled_tokens), lambda _: ids, {}
    )
    return output


def saved(plan: Plan) -> list[int]:
    return [ids[0] for _, ids in plan.saves]


@pytest.fixture
def directory(tmp_path: Path) -> Directory:
    return Directory(tmp_path)


def test_the_longest_prefix_of_whole_blocks_is_loadable(directory: Directory) -> None:
    asked = request(tokens=18)
    hashes = asked.block_hashes
    assert len(hashes) == 4
    assert directory.planner.loadable(asked, 0, 0.0) == 0
    directory.put(hashes[0], hashes[1], hashes[3])
    assert directory.planner.loadable(asked, 0, 0.0) == 8
    assert directory.planner.loadable(asked, 4, 0.0) == 4
    assert directory.planner.loadable(asked, 8, 0.0) == 0
    directory.put(hashes[2])
    assert directory.planner.loadable(asked, 0, 0.0) == 16


def test_the_last_token_is_always_computed(directory: Directory) -> None:
    asked = request(tokens=16)
    directory.put(*asked.block_hashes)
    assert directory.planner.loadable(asked, 0, 0.0) == 12


def test_loads_are_planned_as_allocated_and_once(directory: Directory) -> None:
    asked = request(tokens=18)
    hashes = asked.block_hashes
    directory.put(*hashes)
    planner = directory.planner
    planner.arrived(asked)
    assert planner.loadable(asked, 4, 0.0) == 12
    ids = ([7, 8, 9, 10, 11], [17, 18, 19, 20, 21])
    planner.allocated(asked, ids, 8)  # vLLM took less than was offered
    planner.allocated(asked, ids, 0)  # and calls again once they are loaded
    assert planner.plan(step({})).loads == {"r": [(hashes[1], (8, 18)), (hashes[2], (9, 19))]}
    assert planner.plan(step({})) == Plan(NAMESPACE)


def test_nothing_is_loaded_when_another_connector_was_chosen(directory: Directory) -> None:
    asked = request()
    directory.put(*asked.block_hashes)
    directory.planner.loadable(asked, 0, 0.0)
    directory.planner.allocated(asked, ([1, 2, 3, 4, 5],), 0)
    assert directory.planner.plan(step({})).loads == {}


def test_a_file_once_seen_is_not_looked_at_again_for_a_moment(directory: Directory) -> None:
    block_hash = b"h" * 32
    directory.put(block_hash)
    assert directory.planner.holds(block_hash, 10.0)
    directory.files[0].path(block_hash).unlink()
    assert directory.planner.holds(block_hash, 10.0 + SEEN_FOR_S / 2)
    assert not directory.planner.holds(block_hash, 10.0 + SEEN_FOR_S)
    directory.put(block_hash)
    assert directory.planner.holds(block_hash, 10.0 + SEEN_FOR_S)  # that it was missing is not remembered


def test_a_block_is_there_when_all_ranks_have_it(tmp_path: Path) -> None:
    directory = Directory(tmp_path, ranks=2)
    directory.put(b"h" * 32)
    assert directory.planner.holds(b"h" * 32, 0.0)
    directory.workers[1].path(b"h" * 32).unlink()
    assert not directory.planner.holds(b"h" * 32, 10.0)


def test_each_block_is_written_when_it_is_full_and_once(directory: Directory) -> None:
    planner, asked, same = directory.planner, request(tokens=18), request("same", tokens=18)
    planner.arrived(asked)
    planner.arrived(same)
    assert saved(planner.plan(step({asked: 7}))) == [0]
    asked.num_computed_tokens = 7
    assert saved(planner.plan(step({asked: 1, same: 18}))) == [1, 2, 3]
    asked.num_computed_tokens = 8
    assert saved(planner.plan(step({asked: 10}))) == []
    asked.num_computed_tokens = 18
    asked.append_output_token_ids([91, 92])
    assert saved(planner.plan(step({asked: 2}))) == [4]


def test_blocks_with_generated_tokens_can_be_left_out(tmp_path: Path) -> None:
    directory = Directory(tmp_path, save_outputs=False)
    asked = request(tokens=18)
    directory.planner.arrived(asked)
    asked.append_output_token_ids([91, 92])
    assert saved(directory.planner.plan(step({asked: 20}))) == [0, 1, 2, 3]


def test_tokens_computed_ahead_of_being_known_make_no_block(directory: Directory) -> None:
    asked = request(tokens=18)
    directory.planner.arrived(asked)
    assert saved(directory.planner.plan(step({asked: 24}))) == [0, 1, 2, 3]


def test_blocks_of_several_groups_go_together(directory: Directory) -> None:
    asked = request(tokens=6)
    directory.planner.arrived(asked)
    plan = directory.planner.plan(step({asked: 6}, groups=2))
    assert plan.saves == [(asked.block_hashes[0], (0, 100))]


def test_what_was_not_written_is_planned_for_the_next_request(directory: Directory) -> None:
    planner = directory.planner
    for name in ("first", "second"):
        asked = request(name, tokens=10)
        planner.arrived(asked)
        assert saved(planner.plan(step({asked: 10}))) == [0, 1]
        planner.done(Done(absent=set(asked.block_hashes)))
        planner.finished(name)


def test_what_the_directory_has_is_not_written_again(directory: Directory) -> None:
    asked = request(tokens=18)
    directory.put(*asked.block_hashes[:2])
    directory.planner.arrived(asked)
    directory.planner.loadable(asked, 0, 0.0)
    assert saved(directory.planner.plan(step({asked: 18}))) == [2, 3]


def test_a_block_that_vanished_is_written_when_it_is_computed_again(directory: Directory) -> None:
    asked = request(tokens=10)
    directory.planner.arrived(asked)
    directory.planner.plan(step({asked: 10}))
    again = request("again", tokens=10)
    directory.planner.arrived(again)
    assert directory.planner.loadable(again, 0, 5.0) == 0  # nothing was written, or it was evicted
    assert saved(directory.planner.plan(step({again: 10}))) == [0, 1]


def test_a_file_of_no_use_is_not_asked_for_again(directory: Directory) -> None:
    asked = request(tokens=18)
    directory.put(*asked.block_hashes)
    assert directory.planner.loadable(asked, 0, 0.0) == 16
    directory.planner.done(Done(unusable={asked.block_hashes[1]}, counts=Counter(corrupt=1)))
    assert directory.planner.loadable(asked, 0, 0.0) == 4
    assert directory.planner.counts == Counter(corrupt=1)


def test_what_workers_report_adds_up() -> None:
    first = Done({b"a"}, {b"b"}, Counter(read=1, corrupt=1))
    second = Done({b"c"}, set(), Counter(read=2), "unknown layout")
    assert first.aggregate(second) == Done({b"a", b"c"}, {b"b"}, Counter(read=3, corrupt=1), "unknown layout")
    assert not Done()


def test_after_forgetting_requests_under_way_write_nothing(directory: Directory) -> None:
    asked, later = request(tokens=18), request("later", tokens=18)
    directory.planner.arrived(asked)
    directory.put(*asked.block_hashes)
    assert directory.planner.forget()
    assert directory.planner.loadable(asked, 0, 0.0) == 0
    assert saved(directory.planner.plan(step({asked: 18}))) == []
    directory.planner.arrived(later)
    assert saved(directory.planner.plan(step({later: 18}))) == [0, 1, 2, 3]


def test_what_cannot_be_forgotten_is_not_loaded(directory: Directory) -> None:
    asked = request(tokens=18)
    directory.put(*asked.block_hashes)
    stuck = directory.files[0].path(asked.block_hashes[0])
    stuck.unlink()
    directory.planner._files[0].clear = lambda: 1  # type: ignore[method-assign]
    assert not directory.planner.forget()
    directory.put(*asked.block_hashes)
    assert directory.planner.loadable(asked, 0, 0.0) == 0


def test_requests_leave_nothing_behind(directory: Directory) -> None:
    asked = request()
    directory.planner.arrived(asked)
    directory.planner.loadable(asked, 0, 0.0)
    directory.planner.plan(step({asked: 18}))
    directory.planner.finished("r")
    directory.planner.finished("never arrived")
    assert not directory.planner._requests
    assert not directory.planner._looked_up_from
    assert not directory.planner._planned_up_to


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "path: Field required"),
        ({"path": ""}, "path: .* (got ''"),
        ({"path": 7}, "path: .* (got 7"),
        ({"path": "kv", "max_bytes": 0}, "max_bytes: .* greater than 0 (got 0"),
        ({"path": "kv", "max_bytes": True}, "max_bytes: .* integer (got True"),
        ({"path": "kv", "max_bytes": 1e9}, "max_bytes: .* integer (got 1000000000.0"),
        ({"path": "kv", "max_bytes": "1G"}, "max_bytes: .* integer (got '1G'"),
        ({"path": "kv", "save_outputs": "yes"}, "save_outputs: .* boolean (got 'yes'"),
        ({"path": "kv", "save_outputs": 1}, "save_outputs: .* boolean (got 1"),
        ({"path": "kv", "room": 1}, "room: .* not permitted (got 1; options: path, max_bytes, save_outputs"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(BadOptions, match="^SharedDirectoryConnector: " + said.replace("(", r"\(")):
        Settings.of(wrong)


def test_settings() -> None:
    settings = Settings.of({"path": "kv"})
    assert settings.directory == Path.cwd() / "kv"
    assert (settings.max_bytes, settings.save_outputs) == (None, True)
    settings = Settings.of({"path": "/kv", "max_bytes": 5, "save_outputs": False})
    assert (settings.directory, settings.max_bytes, settings.save_outputs) == (Path("/kv"), 5, False)
