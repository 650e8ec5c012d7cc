#!/usr/bin/python3
"""The supervisor under a service manager: what it says on $NOTIFY_SOCKET, and when. Arguments as test_supervisor.py, whose
gateway with scripted children this uses."""

import json
import os
import signal
import socket
import sys
import time

from test_supervisor import Failure, Gateway, PATIENCE, require, until


class Manager:
    """The socket a service manager listens on, and everything that was said there."""

    def __init__(self, gateway):
        self.path = gateway.path("notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(0.01)
        self.heard = []

    def listen(self):
        try:
            while True:
                self.heard += self.socket.recv(4096).decode().splitlines()
        except socket.timeout:
            return self.heard

    def until(self, wanted, behind=0):
        """Waits for a line behind the first so many; returns how many lines there are up to it."""
        def found():
            lines = self.listen()
            hits = [i for i, line in enumerate(lines) if i >= behind and wanted(line)]
            return hits and hits[0] + 1
        return until(found, "the manager hears it; it heard %s" % self.heard[-10:])


def managed(gateway, watchdog=None):
    manager = Manager(gateway)
    os.environ["NOTIFY_SOCKET"] = manager.path
    if watchdog:
        os.environ["WATCHDOG_USEC"] = str(watchdog)
    gateway.start()
    os.environ.pop("NOTIFY_SOCKET")
    os.environ.pop("WATCHDOG_USEC", None)
    return manager


def ready_comes_with_the_last_child_and_stopping_with_the_stop():
    gateway = Gateway()
    try:
        manager = managed(gateway)
        ready = manager.until(lambda line: line == "READY=1")
        states = {name: gateway.state(name) for name in ("ledger", "dataplane", "vmm")}
        require(set(states.values()) == {"ready"}, "told ready with %s" % states)
        manager.until(lambda line: line == "STATUS=running: 1 of 1 guests up")
        for pid in gateway.children():
            with open("/proc/%d/environ" % pid) as f:
                require("NOTIFY_SOCKET" not in f.read(), "a child can talk to the manager")
        gateway.process.send_signal(signal.SIGTERM)
        stopping = manager.until(lambda line: line == "STOPPING=1")
        require(gateway.process.wait(PATIENCE) == 0, gateway.said())
        require(ready < stopping and manager.listen().count("READY=1") == 1, "it heard %s" % manager.heard)
    finally:
        gateway.stop()


def a_start_that_fails_is_never_ready():
    gateway = Gateway(dataplane="fail")
    try:
        manager = managed(gateway)
        require(gateway.process.wait(PATIENCE) != 0, "it ended well")
        require("READY=1" not in manager.listen(), "it heard %s" % manager.heard)
        require("STOPPING=1" in manager.heard, "it heard %s" % manager.heard)
    finally:
        gateway.stop()


def the_status_names_what_is_down():
    gateway = Gateway()
    try:
        manager = managed(gateway)
        up = manager.until(lambda line: line == "STATUS=running: 1 of 1 guests up")
        gateway.kill("dataplane")
        gateway.kill("vmm")
        manager.until(lambda line: line.startswith("STATUS=running: ") and "the dataplane process is" in line, up)
        down = manager.until(lambda line: line == "STATUS=running: 0 of 1 guests up", up)
        manager.until(lambda line: line == "STATUS=running: 1 of 1 guests up", down)
        require(manager.listen().count("READY=1") == 1, "ready more than once")
    finally:
        gateway.stop()


def signs_of_life_come_again_and_again():
    gateway = Gateway()
    try:
        manager = managed(gateway, watchdog=200000)
        manager.until(lambda line: line == "READY=1")
        for _ in range(5):
            manager.until(lambda line: line == "WATCHDOG=1", len(manager.listen()))
    finally:
        gateway.stop()


def no_sign_of_life_while_nothing_is_inspected():
    """A dataplane whose self-test passed, and then is never heard of again."""
    gateway = Gateway()
    gateway.config["canary"] = {"every": "10 ms"}
    gateway.config["clone"] = {"wall": "20 ms"}
    say = gateway.path("foretaste-dataplane.say.json")

    def passes():
        with open(say + ".new", "w") as f:
            json.dump([{"op": "canary", "service": "http", "result": "ok", "why": "", "took_ns": 1}], f)
        os.rename(say + ".new", say)
        until(lambda: gateway.status() and not os.path.exists(say), "it has been said")

    try:
        manager = managed(gateway, watchdog=200000)
        manager.until(lambda line: line == "READY=1")
        passes()
        failing = manager.until(lambda line: line.endswith("the self-test of service http fails"))
        until(lambda: "gets no sign of life" in gateway.said(), "it is said")
        behind = len(manager.listen())
        time.sleep(1)  # in which five would have come
        require("WATCHDOG=1" not in manager.listen()[behind:], "a sign of life without inspection")
        require(failing <= behind and gateway.status()["state"] == "running", "the loop does not turn")
        passes()
        manager.until(lambda line: line == "WATCHDOG=1", behind)
    finally:
        gateway.stop()


def a_manager_that_makes_no_sense_is_said_and_no_more():
    gateway = Gateway()
    os.environ["NOTIFY_SOCKET"] = "nowhere"
    try:
        gateway.start()
        os.environ.pop("NOTIFY_SOCKET")
        gateway.up()
        require("warning: the service manager is not told how we are: NOTIFY_SOCKET" in gateway.said(), gateway.said())
    finally:
        gateway.stop()


TESTS = [
    ready_comes_with_the_last_child_and_stopping_with_the_stop, a_start_that_fails_is_never_ready,
    the_status_names_what_is_down, signs_of_life_come_again_and_again,
    no_sign_of_life_while_nothing_is_inspected, a_manager_that_makes_no_sense_is_said_and_no_more,
]

if __name__ == "__main__":
    if os.geteuid() != 0:
        print("SKIP: the supervisor gives its children uids, which needs root")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an interrupted test tidies up, too
    failed = 0
    for test in TESTS:
        try:
            test()
            print("ok   " + test.__name__.replace("_", " "), flush=True)
        except Failure as failure:
            failed += 1
            print("FAIL %s: %s" % (test.__name__.replace("_", " "), failure), flush=True)
    sys.exit(1 if failed else 0)
