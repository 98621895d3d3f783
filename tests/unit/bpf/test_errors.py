"""What people read when the kernel says no."""

from __future__ import annotations

import errno

from podwire.bpf.errors import BpfError, LoadError


def test_an_error_names_action_object_and_errno():
    error = BpfError("pin", "program x", errno.EEXIST)
    assert str(error) == "cannot pin program x: File exists (EEXIST)"
    assert error.errno == errno.EEXIST


def test_the_kernels_internal_number_has_a_name():
    assert "ENOTSUPP" in str(BpfError("read", "map m", 524))


def test_a_load_error_ends_with_the_last_lines_and_keeps_all():
    log = "\n".join(f"line {n}" for n in range(100))
    error = LoadError("x.o", errno.EACCES, log)
    assert str(error).splitlines()[-1].strip() == "line 99"
    assert "75 earlier lines" in str(error)
    assert "line 0\n" not in str(error)
    assert error.log == log
