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


class Tested(Gateway):
    """Its dataplane says what the test wants of self-tests, which are recent for some 10 s."""

    def __init__(self):
        super().__init__()
        self.config["canary"] = {"every": "10 ms"}
        self.config["clone"] = {"wall": "20 ms"}

    def tell(self, *results):
        say = self.path("foretaste-dataplane.say.json")
        with open(say + ".new", "w") as f:
            json.dump([{"op": "canary", "service": "http", "result": result, "why": "", "took_ns": 1} for result in results], f)
        os.rename(say + ".new", say)
        until(lambda: self.status() and not os.path.exists(say), "it has been said")


def a_guest_that_hangs_is_started_anew_and_nobody_else():
    gateway = Tested()
    gateway.add_guest("other")
    try:
        manager = managed(gateway, watchdog=200000)
        manager.until(lambda line: line == "STATUS=running: 2 of 2 guests up")
        others = {name: gateway.pid(name) for name in ("ledger", "dataplane", "vmm other")}
        for wait in (10, 20):
            pid = gateway.pid("vmm web")
            gateway.tell("ok")
            time.sleep(5)  # half the time that it is recent for: what is said next is recent when this is not any more
            gateway.tell("silent")
            gateway.up_as("web", other_than=pid)
            until(lambda: any(r["type"] == "guest-hung" and r["guest"] == "web" and "not again for %d s" % wait in r["text"]
                              for r in gateway.records()), "the feed says so: %s" % gateway.records())
            gateway.tell("down")  # as a dataplane does, whose guest it was
        require({name: gateway.pid(name) for name in others} == others, "somebody else was ended, too")
        require(any(r["type"] == "restart" and "its guest answers no self-test any more" in r["text"] for r in gateway.records()), "why")
        manager.until(lambda line: line == "WATCHDOG=1", len(manager.listen()))
        require("gets no sign of life" not in gateway.said(), gateway.said())
    finally:
        gateway.stop()


def a_guest_that_is_never_restarted_is_left_to_be_looked_at():
    gateway = Tested()
    gateway.config["guests"]["web"]["restart"] = "never"
    try:
        managed(gateway)
        gateway.up()
        pid = gateway.pid("vmm web")
        gateway.tell("ok", "silent")
        until(lambda: any(r["type"] == "self-test-failed" for r in gateway.records()), "it is seen")
        time.sleep(12)  # in which one of another policy would have been ended
        require(gateway.pid("vmm web") == pid and not any(r["type"] == "guest-hung" for r in gateway.records()), "it was ended")
    finally:
        gateway.stop()


def no_sign_of_life_while_nothing_is_inspected():
    """A dataplane whose self-test passed, and then is never heard of again."""
    gateway = Tested()

    def passes():
        gateway.tell("ok")

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
    no_sign_of_life_while_nothing_is_inspected, a_guest_that_hangs_is_started_anew_and_nobody_else,
    a_guest_that_is_never_restarted_is_left_to_be_looked_at, a_manager_that_makes_no_sense_is_said_and_no_more,
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
