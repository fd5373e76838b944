from pathlib import Path
from typing import Any

import pytest

from llmd_agents.router import BadConfig, load_config
from llmd_agents.runtime import Mode

ENGINES = "engines: [{url: 'http://10.0.0.1:8000/v1/'}, {url: 'http://10.0.0.2:8000', name: big}]\n"


def load(tmp_path: Path, text: str, **overrides: Any) -> Any:
    file = tmp_path / "router.yaml"
    file.write_text(text)
    return load_config(file, overrides)


def test_a_file_with_everything(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        ENGINES + "port: 9000\ntenants:\n- {name: red, api_keys: [k1, k2]}\n- {name: blue, api_keys: [k3]}\n"
        "operator_api_keys: [o1]\nmode: observe\nplacement: prefix_aware\nrecord: log.jsonl\n"
        "max_body_bytes: 1000\nconnect_timeout_s: 0.5\nanswer_timeout_s: 5\nhealth_interval_s: 2\n",
    )
    assert config.port == 9000
    assert {name: engine.url for name, engine in config.named_engines().items()} == {
        "engine-0": "http://10.0.0.1:8000",
        "big": "http://10.0.0.2:8000",
    }
    assert [tenant.name for tenant in config.tenants] == ["red", "blue"]
    assert (config.mode, config.placement, config.record) == (Mode.OBSERVE, "prefix_aware", Path("log.jsonl"))


def test_by_default_hints_are_acted_on_and_nothing_is_recorded(tmp_path: Path) -> None:
    config = load(tmp_path, ENGINES)
    assert (config.mode, config.placement, config.record) == (Mode.ACT, "load_and_affinity", None)


@pytest.mark.parametrize("text", ["off", "'off'", "OFF"])
def test_off_is_a_mode_although_yaml_takes_it_for_false(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, ENGINES + f"mode: {text}\n").mode is Mode.OFF


def test_the_command_line_wins(tmp_path: Path) -> None:
    config = load(tmp_path, ENGINES + "port: 9000\n", port=1, engines=[{"url": "http://x"}])
    assert (config.port, list(config.named_engines())) == (1, ["engine-0"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prot: 1\n" + ENGINES,
            "prot: unknown key; allowed are host, port, engines, tenants, operator_api_keys, mode",
        ),
        (ENGINES + "port: high\n", r"port: Input should be a valid integer.*\(got 'high'\)"),
        (ENGINES + "port: 70000\n", "port: Input should be less than or equal to 65535"),
        ("port: 1\n", "engines: is required"),
        ("engines: []\n", "engines: Tuple should have at least 1 item"),
        ("engines: [{url: ftp://x}]\n", "engines.0.url: must begin with http:// or https://"),
        ("engines: [{ulr: http://x}]\n", "engines.0.url: is required"),
        (
            "engines: [{url: http://x, key: k}]\n",
            "engines.0.key: unknown key; allowed are url, name, api_key",
        ),
        ("engines: [{url: http://x}, {url: http://x}]\n", "engines: url must differ from one another"),
        (ENGINES + "tenants: [{name: a, api_keys: [k]}, {name: b, api_keys: [k]}]\n", "api_keys must differ"),
        (
            ENGINES + "operator_api_keys: [k]\ntenants: [{name: a, api_keys: [k]}]\n",
            "operator_api_keys and the tenants' api_keys must differ",
        ),
        (ENGINES + "operator_api_keys: 5\n", r"operator_api_keys: .* \(got a secret\)"),
        (ENGINES + "mode: on\n", r"mode: Input should be 'act', 'observe' or 'off' \(got True\)"),
        (ENGINES + "placement: best\n", "placement: Input should be 'load_and_affinity', 'prefix_aware' or"),
        (ENGINES + "connect_timeout_s: 0\n", "connect_timeout_s: Input should be greater than 0"),
        ("- a\n", "must be a mapping of host, port"),
        ("a: [\n", "not YAML"),
        ("", "engines: is required"),
    ],
)
def test_one_line_names_the_key_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message) as raised:
        load(tmp_path, text)
    assert "\n" not in str(raised.value)
    assert "router.yaml" in str(raised.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"nothing\.yaml: No such file"):
        load_config(tmp_path / "nothing.yaml", {})
