"""Which specs are run, and how a run is judged."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request

import pytest

from lab.conformance import events, images, listener, results, selection
from lab.conformance.results import FAILED, PASSED, Spec, Warned
from lab.conformance.run import Outcome
from lab.errors import LabError

SERVICES = "[sig-network] Services should serve a basic endpoint from pods  [Conformance]"
PODS = "[sig-network] Networking Granular Checks: Pods should function for intra-pod communication: http"
POLICIES = "[sig-network] NetworkPolicy [LinuxOnly] NetworkPolicy between server and client"


def selected(name):
    return bool(re.search(selection.FOCUS, name)) and not re.search(selection.skip_expression(), name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (SERVICES, True),
        (PODS, True),
        ("[sig-network] Services should be rejected when no endpoints exist", True),
        ("[sig-network] NetworkPolicy API should support creating NetworkPolicy API operations", True),
        (f"{POLICIES} should support a 'default-deny-all' policy [Feature:NetworkPolicy]", True),
        (
            f"{POLICIES} should not allow access by TCP when a policy specifies only SCTP "
            "[Feature:NetworkPolicy] [Feature:SCTP]",
            True,  # it sends no SCTP
        ),
        (
            "[sig-network] NetworkPolicy [Feature:SCTPConnectivity][LinuxOnly][Disruptive] NetworkPolicy "
            "between server and client using SCTP should support a 'default-deny' policy "
            "[Feature:NetworkPolicy]",
            False,
        ),
        ("[sig-network] Networking should provide Internet connection for containers", False),
        ("[sig-network] ESIPP [Slow] should work for type=NodePort", False),
        ("[sig-cli] Kubectl client Kubectl expose should create services for rc [Conformance]", False),
        ("[sig-network] Services should work after restarting kube-proxy [Disruptive]", False),
        (
            "[sig-network] Services should have session affinity work for LoadBalancer service "
            "with ESIPP on [Slow] [LinuxOnly]",
            False,
        ),
        ("[sig-network] Services should be able to create an internal type load balancer [Slow]", False),
        (
            "[sig-network] Networking Granular Checks: Services should function for pod-Service: sctp "
            "[Feature:SCTPConnectivity][Disruptive]",
            False,
        ),
    ],
)
def test_what_is_run(name, expected):
    assert selected(name) is expected


def test_every_skip_has_a_reason():
    assert all(len(skip.reason) > 20 for skip in selection.SKIPS)


JUNIT = """<?xml version="1.0" encoding="UTF-8"?>
<testsuite name="Kubernetes e2e suite" tests="3" failures="1" errors="0" time="31.5">
  <testcase name="{first}" classname="Kubernetes e2e suite" time="{time}">{inside}</testcase>
  <testcase name="{second}" classname="Kubernetes e2e suite" time="0"><skipped></skipped></testcase>
</testsuite>"""
FAILURE = (
    '<failure type="Failure">/go/src/x/service.go:12\nNov 23: FAIL: no answer\n  from 10.1.0.5\n</failure>'
)


@pytest.fixture
def reports(tmp_path):
    """Two processes: each lists all specs, and as skipped those that the other ran."""
    first = JUNIT.format(first=SERVICES, time="12.5", inside="", second=PODS)
    second = JUNIT.format(first=PODS, time="3", inside=FAILURE, second=SERVICES)
    (tmp_path / "junit_01.xml").write_text(first)
    (tmp_path / "junit_02.xml").write_text(second)
    return tmp_path


def test_the_processes_reports_are_one(reports):
    specs = results.read(reports)
    assert {(spec.name, spec.state, spec.seconds) for spec in specs} == {
        (SERVICES, PASSED, 12.5),
        (PODS, FAILED, 3.0),
    }
    assert results.by_suite(specs) == {
        "Services": (1, 0, 12.5),
        "Networking Granular Checks: Pods": (0, 1, 3.0),
    }
    assert (
        next(spec.title for spec in specs if spec.name == SERVICES)
        == "should serve a basic endpoint from pods"
    )


def test_a_failed_spec_is_named_with_its_reason(reports):
    with pytest.raises(
        LabError, match=r"intra-pod communication: http: Nov 23: FAIL: no answer from 10.1.0.5"
    ):
        Outcome(specs=results.read(reports)).raise_if_failed()


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        pytest.param(Outcome(), "no spec was run", id="nothing ran"),
        pytest.param(Outcome([Spec(PODS, PASSED)], [SERVICES]), "was not run", id="a spec is missing"),
        pytest.param(
            Outcome([Spec(PODS, PASSED)], [], [Warned("ns", "pod-1", "Failed", "StartError")]),
            "ns/pod-1 did not start: Failed: StartError",
            id="a pod did not start",
        ),
    ],
)
def test_more_than_failed_specs_fails_a_run(outcome, said):
    with pytest.raises(LabError, match=re.escape(said)):
        outcome.raise_if_failed()


def test_a_good_run_is_one():
    Outcome([Spec(PODS, PASSED)]).raise_if_failed()


def records(*rows):
    return "".join("\x1f".join(row) + "\x1e" for row in rows)


AT_10, AT_12, AT_40 = (f"2026-01-01T00:00:{second}Z" for second in (10, 12, 40))


def test_warnings_about_pods_that_do_not_start():
    broken = ("ns", "Pod", "a", AT_10, "Failed", "Error: cannot start\ta container\nat all")
    text = records(
        broken,
        broken,
        ("ns", "Pod", "b", AT_10, "Unhealthy", "Readiness probe failed"),
        ("ns", "Node", "worker1", AT_10, "Failed", "not a pod"),
    )
    events = results.parse_events(text + "ns\x1fPod\x1fhalf a rec")
    assert [event.pod for event in events] == ["a", "b"]
    (found,) = results.start_failures(events, {})
    assert (found.pod, found.message) == ("a", "Error: cannot start\ta container\nat all")


@pytest.mark.parametrize(
    ("end", "grace", "counts"),
    [
        pytest.param("", "", True, id="never deleted"),
        pytest.param(AT_40, "30", False, id="deleted at 10 with 30 s to end"),
        pytest.param(AT_12, "0", True, id="deleted only later"),
    ],
)
def test_a_pod_that_is_being_deleted_need_not_start(end, grace, counts):
    events = results.parse_events(records(("ns", "Pod", "a", AT_10, "Failed", "StartError")))
    deletions = results.parse_deletions(records(("ns", "a", "", ""), ("ns", "a", end, grace)))
    assert bool(results.start_failures(events, deletions)) is counts


def test_an_image_counts_by_name_and_content():
    listed = (
        "REF TYPE DIGEST SIZE PLATFORMS LABELS\n"
        "k8s.gcr.io/x/agnhost:2.21 application/vnd.oci sha256:aa 60.1 MiB linux/amd64 -\n"
    )
    assert images.has(listed, "k8s.gcr.io/x/agnhost:2.21", "sha256:aa")
    assert not images.has(listed, "k8s.gcr.io/x/agnhost:2.21", "sha256:bb")
    assert not images.has(listed, "k8s.gcr.io/x/agnhost:2.25", "sha256:aa")


def test_progress_is_heard():
    told = []
    with listener.listening(told.append) as url:
        for body in (json.dumps({"msg": f"PASSED {PODS}"}).encode(), b"no json"):
            with urllib.request.urlopen(urllib.request.Request(url, body), timeout=5) as answer:
                assert answer.status == 200
    assert told == [f"PASSED {PODS}"]


@pytest.mark.parametrize(("asked", "status"), [("http://google.com", 200), ("http://example.com/", 502)])
def test_only_the_precondition_is_answered(asked, status):
    with listener.listening(print) as url:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": url}))
        try:
            with opener.open(asked, timeout=5) as answer:
                assert answer.status == status
        except urllib.error.HTTPError as error:
            assert error.code == status
            error.close()


def test_what_the_watches_print():
    assert events.template((".a", ".b.c")) == r'{.a}{"\x1f"}{.b.c}{"\x1e"}'


def test_suites_of_policies_are_told_apart():
    api = "[sig-network] NetworkPolicy API should support creating NetworkPolicy API operations"
    names = {Spec(name, PASSED).suite for name in (api, f"{POLICIES} should enforce policy based on Ports")}
    assert names == {"NetworkPolicy API", "NetworkPolicy"}
