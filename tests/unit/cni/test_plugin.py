"""The real plugin against a real unix socket, and against everything that can go wrong there."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Plugin, Serve, answer

RESULT = {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/32"}]}


def body_of(request: bytes) -> dict[str, object]:
    value = json.loads(request.partition(b"\r\n\r\n")[2])
    assert isinstance(value, dict)
    return value


# -- what is handed on ------------------------------------------------------------------------------


def test_add_hands_environment_and_configuration_to_the_agent(plugin: Plugin, serve: Serve) -> None:
    serve(answer(200, json.dumps(RESULT).encode()))
    done = plugin.call(
        "ADD", env={"CNI_ARGS": 'K8S_POD_NAME=w"\\\n\x01é', "SECRET": "x"}, runtimeConfig={"a": [1]}
    )
    assert (done.code, done.value) == (0, RESULT)
    request = plugin.requests[0]
    assert request.startswith(b"POST /v1/cni/add HTTP/1.1\r\n")
    body = body_of(request)
    assert body["config"] == plugin.config(runtimeConfig={"a": [1]})
    assert body["env"] == {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "abc123", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x",
        "CNI_PATH": "/opt/cni/bin", "CNI_ARGS": 'K8S_POD_NAME=w"\\\n\x01é',
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "version"), [("DEL", "0.3.1"), ("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
def test_commands_without_a_result_print_nothing(
    plugin: Plugin, serve: Serve, command: str, version: str
) -> None:
    serve(answer(200, b""))
    done = plugin.call(command, cniVersion=version)
    assert (done.code, done.text) == (0, "")
    assert plugin.requests[0].startswith(f"POST /v1/cni/{command.lower()} ".encode())


def test_errors_of_the_agent_are_printed_and_fail(plugin: Plugin, serve: Serve) -> None:
    error = {"cniVersion": "1.0.0", "code": 101, "msg": "no address left"}
    serve(answer(400, json.dumps(error).encode()))
    done = plugin.call("ADD")
    assert (done.code, done.value) == (1, error)


def test_large_configuration_and_answer_pass(plugin: Plugin, serve: Serve) -> None:
    large = {**RESULT, "dns": {"search": ["x" * 1000] * 1000}}
    serve(answer(200, json.dumps(large).encode()))
    done = plugin.call("ADD", padding=["y" * 1000] * 3000)
    assert (done.code, done.value) == (0, large)


# -- VERSION ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.3.1"}', "0.3.1"),
        (b'{"cniVersion":"9.9.9"}', "9.9.9"),
        (b"{}", "1.1.0"),
        (b"", "1.1.0"),
        (b"[", "1.1.0"),
    ],
)
def test_version_is_answered_without_agent(plugin: Plugin, stdin: bytes, version: str) -> None:
    done = plugin.call("VERSION", stdin=stdin)
    assert done.code == 0
    assert done.value == {"cniVersion": version, "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"]}


# -- agent away -------------------------------------------------------------------------------------


def test_add_without_agent_is_to_be_repeated_and_says_where_to_look(plugin: Plugin) -> None:
    done = plugin.call("ADD")
    assert (done.code, done.value["code"]) == (1, 11)
    assert "systemctl status podwire-agent" in done.value["msg"]
    assert str(plugin.socket) in done.value["msg"]


def test_socket_without_listener_counts_as_away(plugin: Plugin) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(plugin.socket))
    assert plugin.call("ADD").value["code"] == 11


def test_status_without_agent_is_not_available(plugin: Plugin) -> None:
    assert plugin.call("STATUS", cniVersion="1.1.0").value["code"] == 50


def test_del_without_agent_is_stored_and_succeeds(plugin: Plugin) -> None:
    done = plugin.call("DEL", env={"CNI_NETNS": "UNSET"})
    assert (done.code, done.text) == (0, "")
    assert plugin.queued() == ["abc123-eth0.json"]
    path = plugin.queue / "abc123-eth0.json"
    assert json.loads(path.read_text())["env"]["CNI_CONTAINERID"] == "abc123"
    assert path.stat().st_mode & 0o777 == 0o600
    assert plugin.queue.stat().st_mode & 0o777 == 0o700
    assert plugin.call("DEL").code == 0  # again: one file, not two
    assert plugin.queued() == ["abc123-eth0.json"]


def test_del_that_the_starting_agent_refuses_is_stored(plugin: Plugin, serve: Serve) -> None:
    serve(answer(503, b'{"code": 11, "msg": "starting"}'))
    assert plugin.call("DEL").code == 0
    assert plugin.queued() == ["abc123-eth0.json"]


def test_del_that_cannot_be_stored_fails_and_says_why(plugin: Plugin) -> None:
    (plugin.directory / "a").write_text("in the way")
    done = plugin.call("DEL")
    assert (done.code, done.value["code"]) == (1, 5)
    assert "Not a directory" in done.value["msg"]


def test_del_on_a_full_disk_fails_and_leaves_no_half_file(plugin: Plugin) -> None:
    plugin.queue.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(plugin.queue)], check=True)
    try:
        with pytest.raises(OSError, match="No space"), (plugin.queue / "filler").open("wb", 0) as filler:
            while True:
                filler.write(b"x" * 4096)
        done = plugin.call("DEL")
        assert (done.code, done.value["code"]) == (1, 5)
        assert "No space left on device" in done.value["msg"]
        assert plugin.queued() == ["filler"]
    finally:
        subprocess.run(["umount", str(plugin.queue)], check=True)


def test_slow_agent_is_given_up_in_time(plugin: Plugin, serve: Serve) -> None:
    serve(lambda connection, _: connection.recv(1) and None)
    start = time.monotonic()
    done = plugin.call("ADD", agentTimeout=0.3)
    assert 0.25 < time.monotonic() - start < 3
    assert done.value["code"] == 11
    assert "no answer within 0.3 s" in done.value["msg"]


def test_trickling_agent_is_given_up_in_time(plugin: Plugin, serve: Serve) -> None:
    def trickle(connection: socket.socket, _: bytes) -> None:
        try:
            for _ in range(100):
                connection.sendall(b"H")
                time.sleep(0.05)
        except OSError:
            pass

    serve(trickle)
    assert plugin.call("ADD", agentTimeout=0.3).value["code"] == 11


def test_hung_agent_does_not_lose_a_del(plugin: Plugin, serve: Serve) -> None:
    serve(lambda connection, _: connection.recv(1) and None)
    assert plugin.call("DEL", agentTimeout=0.2).code == 0
    assert plugin.queued() == ["abc123-eth0.json"]


def test_full_listen_queue_ends_in_the_timeout(plugin: Plugin) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(plugin.socket))
        listener.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(plugin.socket))
        done = plugin.call("ADD", agentTimeout=0.3)
        assert (done.code, done.value["code"]) == (1, 11)
        for client in waiting:
            client.close()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"", 11, id="connection closed"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", 11, id="headers cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", 11, id="body cut"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{}", 11, id="body too long"),
        pytest.param(b"SSH-2.0-OpenSSH\r\n\r\n", 11, id="not HTTP"),
        pytest.param(b"\0" * 300 + b"\r\n\r\n", 11, id="binary"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnull", 100, id="result is no object"),
        pytest.param(b"HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\noops!", 100, id="error is no object"),
        pytest.param(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n", 100, id="another API"),
    ],
)
def test_strange_answers_become_errors(plugin: Plugin, serve: Serve, raw: bytes, code: int) -> None:
    serve(lambda connection, _: connection.sendall(raw))
    done = plugin.call("ADD")
    assert (done.code, done.value["code"]) == (1, code)


def test_endless_answer_is_cut(plugin: Plugin, serve: Serve) -> None:
    def flood(connection: socket.socket, _: bytes) -> None:
        try:
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            pass

    serve(flood)
    assert plugin.call("ADD").value["code"] == 11


# -- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "stdin",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="blank"),
        pytest.param(b"[]", id="array"),
        pytest.param(b'"x"', id="string"),
        pytest.param(b"{", id="open"),
        pytest.param(b'{"a":1}}', id="too much"),
        pytest.param(b'{"a":1,}', id="trailing comma"),
        pytest.param(b"{'a':1}", id="single quotes"),
        pytest.param(b'{"a":01}', id="leading zero"),
        pytest.param(b'{"a":1.}', id="no digits"),
        pytest.param(b'{"a":+1}', id="plus"),
        pytest.param(b'{"a":nul}', id="half a word"),
        pytest.param(b'{"a":NaN}', id="NaN"),
        pytest.param(b'{"a":"\\x"}', id="bad escape"),
        pytest.param(b'{"a":"\\u12g4"}', id="bad unicode escape"),
        pytest.param(b'{"a":"\n"}', id="raw newline in string"),
        pytest.param(b'{"a":"', id="open string"),
        pytest.param(b'{"a":1}\0', id="NUL at the end"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', id="byte order mark"),
        pytest.param(b'{"a":' + b"[" * 100_000, id="deep nesting"),
        pytest.param(b'{"a":' + b'{"a":' * 70 + b"1" + b"}" * 71, id="deeper than allowed"),
        pytest.param(b"\xff\xfe\x00\x01" * 100, id="binary"),
        pytest.param(b'{"cniVersion":100}', id="version no string"),
        pytest.param(b'{"cniVersion":"' + b"1" * 100 + b'"}', id="version endless"),
        pytest.param(b'{"cniVersion":"1.0.0","agentSocket":"relative"}', id="socket relative"),
        pytest.param(b'{"cniVersion":"1.0.0","agentSocket":"/' + b"x" * 200 + b'"}', id="socket too long"),
        pytest.param(b'{"cniVersion":"1.0.0","queueDir":7}', id="queue no string"),
        pytest.param(b'{"cniVersion":"1.0.0","agentTimeout":"soon"}', id="timeout no number"),
        pytest.param(b'{"cniVersion":"1.0.0","agentTimeout":-1}', id="timeout negative"),
    ],
)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_unreadable_input_is_error_6(plugin: Plugin, stdin: bytes, command: str) -> None:
    done = plugin.call(command, stdin=stdin)
    assert (done.code, done.value["code"]) == (1, 6)
    assert done.stderr == ""


def test_huge_input_is_refused_without_reading_it_all(plugin: Plugin) -> None:
    with subprocess.Popen(
        [str(plugin.binary)],
        env={"CNI_COMMAND": "ADD"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        assert process.stdin
        assert process.stdout
        with pytest.raises(BrokenPipeError):
            for _ in range(200):
                process.stdin.write(b'{"a":"' + b"x" * 1_000_000)
        assert json.loads(process.stdout.read())["code"] == 6
        assert process.wait(10) == 1


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.0", "1.2.0", "2.0.0", "", None])
def test_unsupported_versions_are_error_1(plugin: Plugin, version: str | None) -> None:
    done = plugin.call("ADD", cniVersion=version)
    assert (done.code, done.value["code"]) == (1, 1)
    assert done.value["cniVersion"] == ("0.1.0" if version is None else version)


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ({"CNI_CONTAINERID": "UNSET"}, "CNI_CONTAINERID is missing"),
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID is missing"),
        ({"CNI_CONTAINERID": "../../etc/passwd"}, "CNI_CONTAINERID is invalid"),
        ({"CNI_CONTAINERID": ".hidden"}, "CNI_CONTAINERID is invalid"),
        ({"CNI_CONTAINERID": "a" * 129}, "CNI_CONTAINERID is invalid"),
        ({"CNI_IFNAME": "UNSET"}, "CNI_IFNAME is missing"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME is invalid"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME is invalid"),
        ({"CNI_IFNAME": "a b"}, "CNI_IFNAME is invalid"),
        ({"CNI_IFNAME": "sixteen-letters."}, "CNI_IFNAME is invalid"),
    ],
)
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_wrong_environment_is_error_4_and_named(
    plugin: Plugin, command: str, env: dict[str, str], name: str
) -> None:
    done = plugin.call(command, env=env)
    assert (done.code, done.value["code"]) == (1, 4)
    assert name in done.value["msg"]
    assert plugin.queued() == []


def test_add_needs_a_namespace(plugin: Plugin) -> None:
    done = plugin.call("ADD", env={"CNI_NETNS": "UNSET"})
    assert (done.code, done.value["code"]) == (1, 4)


@pytest.mark.parametrize("command", ["", "add", "FROB", "x" * 5000])
def test_unknown_commands_are_error_4(plugin: Plugin, command: str) -> None:
    done = plugin.call(command)
    assert (done.code, done.value["code"]) == (1, 4)


def test_no_command_says_who_starts_it(plugin: Plugin) -> None:
    done = plugin.call(None)
    assert (done.code, done.value["code"]) == (1, 4)
    assert "container runtime" in done.value["msg"]


def test_library_paths_of_others_do_not_matter(plugin: Plugin, tmp_path: Path) -> None:
    (tmp_path / "libc.so.6").write_text("not a library")
    done = plugin.call(
        "VERSION", env={"LD_LIBRARY_PATH": str(tmp_path), "LD_PRELOAD": str(tmp_path / "libc.so.6")}
    )
    assert (done.code, done.stderr) == (0, "")
    file = subprocess.run(["readelf", "-l", str(plugin.binary)], capture_output=True, text=True, check=True)
    assert "INTERP" not in file.stdout


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), json_values, max_size=4), st.booleans())
def test_every_json_object_is_understood(plugin: Plugin, value: dict[str, object], ascii_only: bool) -> None:
    value = {key: item for key, item in value.items() if not key.startswith(("agent", "queue", "cni"))}
    text = json.dumps({**value, "cniVersion": "0.9.9"}, ensure_ascii=ascii_only).encode(
        "utf-8", "surrogatepass"
    )
    assert plugin.call("ADD", stdin=text).value["code"] == 1  # understood: what is wrong is the version


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_no_input_breaks_the_plugin(plugin: Plugin, data: bytes) -> None:
    done = plugin.call("ADD", stdin=data)
    assert done.code == 1
    assert done.value["code"] in (1, 6)
