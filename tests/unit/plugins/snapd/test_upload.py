"""Local snap files on their way to snapd."""

from __future__ import annotations

from email.parser import BytesParser

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_errors import DiskFullError
from ansible_collections.podwire.ebpf.plugins.module_utils.snapd_upload import UPLOAD_CHUNK, Upload

from tests.unit.plugins.snapd.server import accepted, change, soon


def test_a_file_is_uploaded_as_multipart_with_its_name(server, client, tmp_path):
    file = tmp_path / "microk8s_1.snap"
    content = b"\r\n--snap\0" * 300_000
    file.write_bytes(content)
    server.script("POST /v2/snaps", accepted("7"))
    server.script("GET /v2/changes/7", change("Done"))
    client.sideload(file, "microk8s", classic=True, dangerous=True, deadline=soon())
    _, headers, body = server.seen[0]
    message = BytesParser().parsebytes(
        b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body
    )
    parts = {part.get_param("name", header="content-disposition"): part for part in message.get_payload()}
    assert parts["action"].get_payload().strip() == "install"
    assert parts["classic"].get_payload() == "true"
    assert parts["dangerous"].get_payload() == "true"
    assert parts["snap"].get_filename() == "microk8s_1.snap"
    start = body.index(b"octet-stream\r\n\r\n") + len(b"octet-stream\r\n\r\n")
    assert body[start : start + len(content)] == content


def test_an_upload_is_never_held_in_memory(server, client, tmp_path, monkeypatch):
    file = tmp_path / "big.snap"
    with file.open("wb") as stream:
        stream.truncate(5 * UPLOAD_CHUNK + 3)
    pieces = []
    real = Upload.__iter__

    def watched(self):
        for piece in real(self):
            pieces.append(len(piece))
            yield piece

    monkeypatch.setattr(Upload, "__iter__", watched)
    server.script("POST /v2/snaps", accepted("7"))
    server.script("GET /v2/changes/7", change("Done"))
    client.sideload(file, "big", classic=False, dangerous=False, deadline=soon())
    assert max(pieces) == UPLOAD_CHUNK
    assert len(server.seen[0][2]) > 5 * UPLOAD_CHUNK


def test_a_full_disk_is_told_although_snapd_stops_reading(server, client, tmp_path):
    file = tmp_path / "big.snap"
    with file.open("wb") as stream:
        stream.truncate(64 * UPLOAD_CHUNK)
    server.script("POST /v2/snaps", "early refusal")
    with pytest.raises(DiskFullError) as caught:
        client.sideload(file, "big", classic=False, dangerous=False, deadline=soon())
    assert "/var/lib/snapd" in caught.value.hint
