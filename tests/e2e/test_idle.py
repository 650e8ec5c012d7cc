#!/usr/bin/python3
"""An idle gateway with an idle guest uses at most 10 % of one core: all its processes' CPU time over ten seconds. What its
self-test adds to that is said, for each test and for the interval that is shipped."""

import os
import sys
import time

from stand import AS_SHIPPED, Stand, main, require, until

SECONDS = 10
TESTS = 10
SHIPPED = 30  # seconds from one self-test to the next


def cpu_seconds(stand):
    total = 0
    for pid, _ in stand.processes():
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15]))  # its own, and of the clones that it had
    return total / os.sysconf("SC_CLK_TCK")


def measure(stand, over):
    """CPU seconds for each second, until over()."""
    start, begun = cpu_seconds(stand), time.monotonic()
    over()
    return (cpu_seconds(stand) - start) / (time.monotonic() - begun), time.monotonic() - begun


def idle_costs_little():
    with Stand(sys.argv, guest=AS_SHIPPED) as stand:
        stand.wait_for_guest()
        time.sleep(5)  # what a guest does after its start is not idling
        share, _ = measure(stand, lambda: time.sleep(SECONDS))
        print("idle: %.1f %% of one core" % (100 * share))
        require(share <= 0.10, "idle costs %.1f %% of one core" % (100 * share))


def what_a_self_test_costs():
    with Stand(sys.argv, guest=dict(AS_SHIPPED, canary="10.0.2.200"), top={"canary": {"every": "1 s"}}) as stand:
        def passed():
            return stand.cli("status")["canary"]["services"]["http"]["results"]["ok"]

        stand.wait_for_guest()
        until(passed, "a self-test passes")
        time.sleep(5)
        before = passed()
        share, took = measure(stand, lambda: until(lambda: passed() >= before + TESTS or time.sleep(0.5), "self-tests pass"))
        count = passed() - before
    with Stand(sys.argv, guest=AS_SHIPPED) as stand:
        stand.wait_for_guest()
        time.sleep(5)
        idle, _ = measure(stand, lambda: time.sleep(SECONDS))
    each = (share - idle) * took / count
    print("self-test: %.0f ms of CPU each (%d in %.0f s); every %d s: %.2f %% of one core" % (1000 * each, count, took, SHIPPED,
                                                                                         100 * each / SHIPPED))
    require(each > 0, "a trial cannot cost nothing")


if __name__ == "__main__":
    main([idle_costs_little, what_a_self_test_costs])
