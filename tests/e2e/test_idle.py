#!/usr/bin/python3
"""An idle gateway with an idle guest uses at most 10 % of one core: all its processes' CPU time over ten seconds."""

import os
import sys
import time

from stand import AS_SHIPPED, Stand, main, require

SECONDS = 10


def cpu_seconds(stand):
    total = 0
    for pid, _ in stand.processes():
        with open("/proc/%d/stat" % pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def idle_costs_little():
    with Stand(sys.argv, guest=AS_SHIPPED) as stand:
        stand.wait_for_guest()
        time.sleep(5)  # what a guest does after its start is not idling
        start, begun = cpu_seconds(stand), time.monotonic()
        time.sleep(SECONDS)
        share = (cpu_seconds(stand) - start) / (time.monotonic() - begun)
        print("idle: %.1f %% of one core" % (100 * share))
        require(share <= 0.10, "idle costs %.1f %% of one core" % (100 * share))


if __name__ == "__main__":
    main([idle_costs_little])
