"""The API server restarts: whoever asked it by its service is led to it again, and nothing else is lost."""

from __future__ import annotations

from tests.e2e.support import eventually

ASK_API = "curl -sk -m 5 -o /dev/null -w '%{http_code}' https://10.152.183.1/readyz"
# Who brings no credentials is refused by the API, not by the network.
ANSWERS = ("200", "401")
RESTART_SECONDS = 120


def test_api_is_reached_by_its_service_before_and_after(lab, pods, on_node, agent) -> None:
    def reached_from(node: str) -> bool:
        try:
            return pods.run(pods.on(node)[0], ASK_API) in ANSWERS
        except AssertionError:  # kubectl needs the API, too
            return False

    assert all(reached_from(node) for node in lab.nodes)
    on_node("cp1", "systemctl restart snap.microk8s.daemon-kubelite", timeout=RESTART_SECONDS)
    for node in lab.nodes:
        eventually(lambda node=node: reached_from(node), f"{node} reaches it", timeout=RESTART_SECONDS)
        assert on_node(node, ASK_API) in ANSWERS
        eventually(lambda node=node: agent(node, "/v1/status")["ready"], f"the agent of {node} is ready")
