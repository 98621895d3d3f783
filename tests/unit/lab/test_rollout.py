"""Following ansible-playbook's output."""

from lab.rollout import Follower

OUTPUT = """
PLAY [Say no early] ************************************************************

TASK [validate : The kernel offers what the datapath needs] ********************
ok: [cp1]
fatal: [worker1]: FAILED! =>
    msg: worker1 runs kernel 5.4, the datapath needs 5.10 or newer.

NO MORE HOSTS LEFT *************************************************************

PLAY RECAP *********************************************************************
cp1                        : ok=4    changed=0    unreachable=0    failed=0
worker1                    : ok=3    changed=2    unreachable=0    failed=1
"""


def follow(text):
    follower = Follower()
    plays = [name for line in text.splitlines() if (name := follower.feed(line))]
    return follower, plays


def test_plays_are_announced_and_changes_counted():
    follower, plays = follow(OUTPUT)
    assert plays == ["Say no early"]
    assert follower.task == "validate : The kernel offers what the datapath needs"
    assert follower.changed == {"cp1": 0, "worker1": 2}


def test_failures_carry_task_host_and_message():
    follower, _ = follow(OUTPUT)
    told = "\n".join(follower.failures)
    assert "The kernel offers what the datapath needs" in told
    assert "worker1 runs kernel 5.4, the datapath needs 5.10 or newer." in told
    assert "PLAY RECAP" not in told


def test_a_good_run_has_no_failures():
    follower, _ = follow(OUTPUT.replace("fatal: [worker1]: FAILED! =>", "ok: [worker1] =>"))
    assert follower.failures == []


def test_errors_before_any_play_are_kept():
    follower, _ = follow("[ERROR]: the playbook: site.yml could not be found\n")
    assert "site.yml could not be found" in "\n".join(follower.failures)
