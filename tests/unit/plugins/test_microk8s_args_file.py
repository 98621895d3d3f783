"""MicroK8s' argument files: what kubelite reads is what was asked for, and what was not touched stays."""

from __future__ import annotations

import pytest
from ansible_collections.podwire.ebpf.plugins.module_utils.errors import PodwireError
from ansible_collections.podwire.ebpf.plugins.module_utils.microk8s_args_file import (
    ArgsFile,
    edit,
    service_of,
)
from hypothesis import given
from hypothesis import strategies as st

STOCK = """\
--kubeconfig=${SNAP_DATA}/credentials/controller.config
# a comment --allocate-node-cidrs=false

--use-service-account-credentials
--profiling=false --leader-elect=false
"""


def kubelite_reads(text):
    """kubelite's own reading: lines split on single spaces, blank and comment lines skipped, all quotes
    removed.
    """
    words = []
    for line in text.split("\n"):
        if line.strip() == "" or line.strip().startswith("#"):
            continue
        words += [word.replace('"', "").replace("'", "") for word in line.split(" ") if word]
    return words


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("--a=1\n", "a", "1"),
        ("--a 1\n", "a", "1"),
        ('--a="x y"\n', "a", "x"),
        ("--a='1'\n", "a", "1"),
        ("--a\n", "a", "true"),
        ("--a --b\n", "a", "true"),
        ("--a\nword\n", "a", "true"),
        ("--a=1\n--a=2\n", "a", "2"),
        ("--a=b=c\n", "a", "b=c"),
        ("-v=2\n", "v", "2"),
        ("#--a=1\n", "a", None),
        ("", "a", None),
    ],
)
def test_reading(text, key, value):
    assert ArgsFile(text).get(key) == value
    assert ArgsFile(text).get(f"--{key}") == value


def test_a_new_argument_is_appended_and_the_rest_stays_to_the_byte():
    text, changes = edit(STOCK, {"allocate-node-cidrs": "true"}, [])
    assert text == STOCK + "--allocate-node-cidrs=true\n"
    assert changes == {"allocate-node-cidrs": [None, "true"]}


def test_a_file_without_a_final_newline_gets_one():
    assert edit("--a=1", {"b": "2"}, [])[0] == "--a=1\n--b=2\n"
    assert edit("", {"b": "2"}, [])[0] == "--b=2\n"


def test_a_value_is_changed_in_its_place():
    text, changes = edit(STOCK, {"profiling": "true"}, [])
    assert "--profiling=true --leader-elect=false" in text
    assert changes == {"profiling": ["false", "true"]}


def test_several_of_one_name_become_one():
    text, _ = edit("--a=1\n--b=2\n--a 3\n", {"a": "4"}, [])
    assert text == "--a=4\n--b=2\n"


def test_a_bare_flag_is_true_already():
    text, changes = edit(STOCK, {"use-service-account-credentials": "true"}, [])
    assert (text, changes) == (STOCK, {})


def test_removal_takes_every_spelling():
    text, changes = edit("--a=1\n--b=2 --a 3\n--c\n", {}, ["a", "missing"])
    assert text == "--b=2\n--c\n"
    assert changes == {"a": ["3", None]}


@pytest.mark.parametrize("value", ["two words", 'quo"te', "quo'te", "back`tick", "new\nline", "\\"])
def test_values_that_the_readers_would_tear_apart_are_refused(value):
    with pytest.raises(PodwireError, match="cannot be written"):
        edit("", {"a": value}, [])


@pytest.mark.parametrize("key", ["", "--", "a b", "a=b", "#a"])
def test_names_that_no_component_could_read_are_refused(key):
    with pytest.raises(PodwireError, match="no argument name"):
        edit("", {key: "1"}, [])


@pytest.mark.parametrize(
    ("file", "service"),
    [
        ("kube-controller-manager", "kubelite"),
        ("kubelet", "kubelite"),
        ("containerd-env", "containerd"),
        ("nonsense", None),
    ],
)
def test_every_file_has_the_service_that_reads_it(file, service):
    assert service_of(file) == service


keys = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
values = st.from_regex(r"[A-Za-z0-9./:=,$_{}-]{1,12}", fullmatch=True)
lines = st.one_of(
    st.builds(lambda k, v: f"--{k}={v}", keys, values),
    st.builds(lambda k, v: f"--{k}={v} --z", keys, values),
    st.builds(lambda k: f"--{k}", keys),
    st.builds(lambda text: f"# {text}", st.from_regex(r"[a-z =-]{0,20}", fullmatch=True)),
    st.just(""),
)
files = st.lists(lines, max_size=12).map("\n".join)


@given(files, keys, values)
def test_what_was_set_is_what_kubelite_reads_once(text, key, value):
    after, _ = edit(text, {key: value}, [])
    assert [word for word in kubelite_reads(after) if word.split("=")[0] == f"--{key}"] == [
        f"--{key}={value}"
    ] or (value == "true" and ArgsFile(after).get(key) == "true")
    assert ArgsFile(after).get(key) == value


@given(files, keys, values)
def test_setting_twice_changes_nothing_the_second_time(text, key, value):
    after, _ = edit(text, {key: value}, [])
    assert edit(after, {key: value}, []) == (after, {})


@given(files, keys, values)
def test_other_arguments_and_comments_stay(text, key, value):
    after, _ = edit(text, {key: value}, [])
    before_others = {k: v for k, v in ArgsFile(text).arguments().items() if k != key}
    assert {k: v for k, v in ArgsFile(after).arguments().items() if k != key} == before_others
    comments = [line for line in text.split("\n") if line.startswith("#")]
    assert [line for line in after.split("\n") if line.startswith("#")] == comments


@given(files, keys)
def test_removing_removes(text, key):
    after, _ = edit(text, {}, [key])
    assert ArgsFile(after).get(key) is None
