"""Settings, and their reference file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from edgectl_agent.errors import UsageError
from edgectl_agent.inference.options import Options
from edgectl_agent.settings import Settings, load_settings
from edgectl_agent.start import endpoint_options

REFERENCE = Path(__file__).parents[3] / "docs" / "agent.toml"


def test_the_reference_names_every_setting_with_its_default() -> None:
    reference = tomllib.loads(REFERENCE.read_text())
    assert reference == msgspec.to_builtins(Settings())


def test_flags_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('server = "http://file"\ndevice = "file"\nport = 1\n[labels]\nsite = "a"\n')
    settings = load_settings(
        file=file,
        environment={
            "EDGECTL_AGENT_DEVICE": "environment",
            "EDGECTL_AGENT_PORT": "2",
            "EDGECTL_AGENT_LABELS": "site=porto, line=2",
            "PATH": "/bin",
        },
        flags={"port": 3, "token": None},
    )
    assert settings.server == "http://file"
    assert settings.device == "environment"
    assert settings.port == 3
    assert settings.labels == {"site": "porto", "line": "2"}


def test_settings_of_the_endpoint_reach_it(tmp_path: Path) -> None:
    none = endpoint_options(Settings())
    assert none == Options()
    file = tmp_path / "agent.toml"
    file.write_text(
        'endpoint_names = "gateway.local, camera-7,"\nendpoint_token_file = "endpoint.token"\n'
        "endpoint_body_bytes_max = 2048\nendpoint_connections_max = 5\nendpoint_queue_max = 6\n"
        f'grpc_port = 8600\nstate = "{tmp_path}"\n'
    )
    environment = {
        "EDGECTL_AGENT_ENDPOINT_TOKEN_ON_SOCKET": "true",
        "EDGECTL_AGENT_SHARED_MEMORY": "1",
        "EDGECTL_AGENT_ENDPOINT_CLIENT_MAX": "7",
    }
    assert endpoint_options(load_settings(file=file, environment=environment, flags={})) == Options(
        names=("gateway.local", "camera-7"),
        token_file=str(tmp_path / "endpoint.token"),
        token_on_socket=True,
        body_bytes_max=2048,
        connections_max=5,
        queue_max=6,
        client_max=7,
        shared_memory=True,
        grpc_port=8600,
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("prot = 1", "settings.unknown"),
        ("port = 70000", "settings.value"),
        ("port = 'many'", "settings.value"),
        ("device = 'a b'", "settings.value"),
        ("device = 'server'", "settings.value"),
        ("telemetry_s = 0", "settings.value"),
        ("endpoint_body_bytes_max = 10", "settings.value"),
        ("endpoint_queue_max = 0", "settings.value"),
        ("grpc_port = -1", "settings.value"),
        ("shared_memory = 'perhaps'", "settings.value"),
        ("port = ", "settings.file"),
        ("# " + "x" * 300_000, "settings.file"),
    ],
)
def test_wrong_settings_are_refused_with_the_next_step(
    tmp_path: Path, text: str, code: str
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_settings(file=file, environment={}, flags={})
    assert caught.value.code == code


def test_unknown_names_in_the_environment_are_refused() -> None:
    with pytest.raises(UsageError, match=r"settings\.unknown"):
        load_settings(file=None, environment={"EDGECTL_AGENT_PROT": "1"}, flags={})
    with pytest.raises(UsageError, match=r"settings\.value"):
        load_settings(file=None, environment={"EDGECTL_AGENT_LABELS": "nonsense"}, flags={})
