#!/usr/bin/python3
"""Processes killed with holds open, files that cannot be written, a guest that floods or falls over: the declared policy
holds, the message is clear, and nothing is left behind (Stand checks that at its end)."""

import os
import signal
import sys
import threading

from stand import Stand, main, require, until

TWIN = "/cgi-bin/lookup?host=localhost&note=a;b"
SLOW = "/abuse/spin?note=a;b"  # never comes to rest: its trial lasts until a budget ends it


class Held:
    """A request in the background that is being held while the test does something terrible."""

    def __init__(self, stand, path=SLOW):
        self.answer = None
        self.thread = threading.Thread(target=lambda: setattr(self, "answer", stand.get(path, timeout=60)), daemon=True)
        self.thread.start()
        until(lambda: stand.cli("holds"), "a hold is open")

    def result(self):
        self.thread.join(90)
        require(not self.thread.is_alive(), "the held request never ended")
        return self.answer


def restarted(stand, name, old):
    def new():
        now = [pid for pid, program in stand.processes(name)]
        return now and old not in now
    until(new, "%s runs again" % name)


def killed(name):
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        held = Held(stand)
        victim = stand.processes(name)[0][0]
        os.kill(victim, signal.SIGKILL)
        status = held.result()[0]
        require(status is None, "on_exception is drop, but the held request was answered with %s" % status)
        restarted(stand, name, victim)
        stand.wait_for_guest()
        require(stand.get("/")[0] == 200, "no service after %s was killed" % name)


def vmm_killed_with_a_hold_open():
    killed("foretaste-vmm")


def dataplane_killed_with_a_hold_open():
    killed("foretaste-dataplane")


def clone_killed_with_a_hold_open():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        live = stand.processes("foretaste-vmm")[0][0]
        held = Held(stand)
        clones = until(lambda: [p for p, _ in stand.processes("foretaste-vmm") if p != live], "a clone runs")
        os.kill(clones[-1], signal.SIGKILL)
        require(held.result()[0] is None, "the held request was answered")
        verdict = stand.wait_alerts(1)[-1]["alert"]["context"]["foretaste"]
        require(verdict["verdict"] != "clean", "a killed clone's verdict is clean")
        require(stand.processes("foretaste-vmm")[0][0] == live, "the live guest went down with its clone")
        require(stand.get("/")[0] == 200, "no service")


def supervisor_killed_with_a_hold_open():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        held = Held(stand)
        stand.stop(signal.SIGKILL)
        require(held.result()[0] is None, "the held request was answered")
        until(lambda: not stand.processes(), "all processes end with their supervisor", 10)
        stand.start()  # the dead one's socket is taken over
        stand.wait_for_guest()


def ledger_killed():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        victim = stand.processes("foretaste-ledger")[0][0]
        os.kill(victim, signal.SIGKILL)
        require(stand.get(TWIN)[0] == 200, "an innocent request while the ledger restarts")
        restarted(stand, "foretaste-ledger", victim)
        stand.wait_alerts(1)


def guest_falls_over():
    with Stand(sys.argv, cmdline="reboot=t foretaste.reboot=8") as stand:
        stand.wait_for_guest()
        first = stand.processes("foretaste-vmm")[0][0]
        restarted(stand, "foretaste-vmm", first)
        require(stand.process.poll() is None, "the gateway went down with its guest")


def guest_floods():
    with Stand(sys.argv, cmdline="foretaste.flood=burst") as stand:
        stand.wait_for_guest()
        require(stand.get("/", timeout=60)[0] == 200, "no service beside a flood")
        require(stand.process.poll() is None, "the gateway went down")


def quarantine_not_writable():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        state = os.path.join(stand.directory, "state")
        for root, directories, _ in os.walk(state):
            for name in directories:
                if name == "quarantine":
                    path = os.path.join(root, name)
                    os.rename(path, path + ".gone")
        status, _ = stand.get("/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/quarantine")
        require(status is None, "the attack was answered with %s" % status)
        require(stand.wait_alerts(1), "no alert")
        require(not stand.touched("quarantine"), "the live guest was touched")


def two_gateways_one_socket():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        path = os.path.join(stand.directory, "foretaste.yaml")
        import subprocess
        got = subprocess.run([stand.program("foretaste"), "run", "--config", path], stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
        require(64 <= got.returncode <= 78, "exit code %d is no sysexits code" % got.returncode)
        require("in use" in got.stdout, "no clear sentence: %s" % got.stdout)
        require(stand.get("/")[0] == 200, "the first gateway suffered")


if __name__ == "__main__":
    main([vmm_killed_with_a_hold_open, clone_killed_with_a_hold_open, dataplane_killed_with_a_hold_open,
          supervisor_killed_with_a_hold_open, ledger_killed, guest_falls_over, guest_floods, quarantine_not_writable,
          two_gateways_one_socket])
