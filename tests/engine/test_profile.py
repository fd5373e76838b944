import dataclasses
from pathlib import Path

import pytest

from llmd_agents.engine import ProfileError, load_profile, profile_names

TINY = """
name = "mine"
block_size = 16
num_blocks = 10
max_model_len = 100
max_num_batched_tokens = 50
max_num_seqs = 2
step_overhead_s = 0.001
prefill_s_per_token = 0
prefill_s_per_token_context = 0.0
decode_s_per_seq = 0.0
decode_s_per_context_token = 0.0
"""


def test_packaged_profiles_load() -> None:
    assert profile_names() == ("h100-8b", "l40s-8b", "tiny")
    assert [load_profile(name).name for name in profile_names()] == ["h100-8b", "l40s-8b", "tiny"]
    assert load_profile() == load_profile("h100-8b")


def test_default_profile_has_the_speed_that_it_states() -> None:
    h100 = load_profile()

    assert 15_000 < 8192 / (h100.step_overhead_s + h100.prefill_s(0, 8192)) < 25_000
    for seqs, context in ((1, 1_000), (32, 2_000)):
        assert 0.007 < h100.step_overhead_s + seqs * h100.decode_s(context) < 0.015
    assert 400_000 < h100.cache_tokens < 500_000


def test_l40s_has_the_speed_that_it_states() -> None:
    l40s = load_profile("l40s-8b")

    assert 8_000 < 8192 / (l40s.step_overhead_s + l40s.prefill_s(0, 8192)) < 12_000
    assert l40s.cache_tokens == l40s.host_blocks * l40s.block_size == 190_000


def test_rates_are_told_for_what_there_is() -> None:
    h100, l40s = load_profile().rates, load_profile("l40s-8b").rates

    assert (h100.host_s_per_token, h100.storage_s_per_token) == (None, None)
    assert h100.peer_s_per_token == pytest.approx(131_072 / 45e9)
    assert l40s.host_s_per_token == pytest.approx(131_072 / 20e9)
    assert dataclasses.replace(load_profile(), peer_bytes_per_s=0.0).rates.peer_s_per_token is None


def test_prefill_cost_does_not_depend_on_how_it_is_cut() -> None:
    h100 = load_profile()

    assert h100.prefill_s(0, 100) + h100.prefill_s(100, 300) == pytest.approx(h100.prefill_s(0, 300))


def test_profile_is_read_from_a_file_and_varied(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TINY)

    mine = load_profile(path)

    assert (mine.name, mine.cache_tokens) == ("mine", 144)
    assert dataclasses.replace(mine, num_blocks=3).cache_tokens == 32


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("block_size = 16", "blocksize = 16", "unknown key 'blocksize'; allowed are name, block_size,"),
        ("block_size = 16", "", "key 'block_size' is missing; needed are name,"),
        ("block_size = 16", "block_size = 1.5", "block_size must be an integer of at least 1, not 1.5"),
        ("num_blocks = 10", "num_blocks = 1", "num_blocks must be an integer of at least 2, not 1"),
        ('name = "mine"', "name = 3", "name must be a non-empty string, not 3"),
        ("= 0.001", "= 0", "step_overhead_s must be more than 0"),
        ("= 0.001", "= inf", "step_overhead_s must be a number of seconds, 0 or more, not inf"),
        ("= 0.001", "= ", "Invalid value"),
        (
            "block_size = 16",
            "block_size = 16\nhost_blocks = -1",
            "host_blocks must be an integer of at least 0",
        ),
        (
            "block_size = 16",
            "block_size = 16\npeer_bytes_per_s = -1.0",
            "peer_bytes_per_s must be a number of bytes per second, 0 or more, not -1.0",
        ),
        (
            "block_size = 16",
            "block_size = 16\nhost_blocks = 1\nhost_bytes_per_s = 0",
            "host_bytes_per_s must be more than 0 where there are host_blocks",
        ),
    ],
)
def test_bad_profiles_are_refused_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(TINY.replace(old, new))

    with pytest.raises(ProfileError) as refused:
        load_profile(path)

    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_unknown_profiles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="nor one of h100-8b, l40s-8b, tiny"):
        load_profile("h200")
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(tmp_path / "none.toml")
