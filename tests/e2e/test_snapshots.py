#!/usr/bin/python3
"""Snapshots of a guest behind the real gateway: saved under traffic, encrypted, restored with its network isolated until it is
attached; and a guest that starts from its snapshot."""

import http.client
import os
import socket
import sys
import time

from stand import GUEST, Stand, main, require, until


class Snapshots(Stand):
    """A gateway that encrypts what it saves."""

    def __init__(self, **guest):
        super().__init__(sys.argv, guest=guest)
        self.key = os.path.join(self.directory, "key")
        with open(self.key, "wb") as f:
            f.write(os.urandom(32))
        os.chmod(self.key, 0o600)
        self.config["snapshots"] = {"key": self.key}

    def guest(self):
        return self.cli("guests")["web"]

    def dropped(self, reason):
        return self.cli("metrics")["reasons"].get(reason, 0)

    def vmm(self):
        return self.cli("status")["processes"]["vmm web"]


def frames_of(name, patience, mac=bytes.fromhex("52540000020f")):
    """Frames from the guest that the client's cable carries within some seconds."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as wire:
        wire.bind((name, 0))
        end, count = time.monotonic() + patience, 0
        while time.monotonic() < end:
            wire.settimeout(max(0.01, end - time.monotonic()))
            try:
                count += wire.recv(2048)[6:12] == mac
            except TimeoutError:
                break
        return count


def connects(patience=2):
    try:
        with socket.create_connection((GUEST, 80), timeout=patience):
            return True
    except OSError:
        return False


def a_guest_goes_on_where_it_was_saved():
    with Snapshots() as s:
        s.wait_for_guest()
        kept = http.client.HTTPConnection(GUEST, 80, timeout=60)
        require(s.get("/", connection=kept)[0] == 200, "a connection that stays open")
        # Under traffic: requests while it is saved, one of them held and tried.
        saving = s.cli("snapshot", "save", "web", "one")
        require(saving["state"] == "saved" and saving["bytes"] > 1 << 20, "%s" % saving)
        require(s.get("/cgi-bin/lookup?host=localhost&note=fish;chips")[0] == 200, "a request that is held")
        s.cli("snapshot", "save", "web", "two")
        require(s.get("/", connection=kept)[0] == 200, "the connection is open all along")
        verified = s.cli("snapshot", "verify", "two")
        require(verified["encrypted"] is True and verified["chunks"] > 10, "%s" % verified)
        require([x["encrypted"] for x in s.cli("snapshot", "list")] == [True, True], "both are")
        # A piece of the guest's page in plain is nowhere in the file.
        with open(os.path.join(s.config["state"], "snapshots", "two"), "rb") as f:
            require(b"nginx" not in f.read(), "something of the guest is in plain in the file")
        served = s.requests()

        before = s.vmm()["pid"]
        s.cli("snapshot", "restore", "web", "two")
        until(lambda: s.vmm()["pid"] not in (0, before) and s.guest()["state"] == "up", "it runs")
        require(s.guest().get("isolated") is True, "%s" % s.guest())
        # Nobody gets an answer, though it runs; what is sent to it has a reason of its own.
        require(not connects(), "an isolated guest answers")
        require(frames_of(s.tag + "c", 2) == 0, "an isolated guest sends")
        require(s.dropped("drop.isolated") > 0, "frames to it are counted: %s" % s.cli("metrics")["reasons"])
        require(s.dropped("drop.guest-down") == 0, "it is not down")
        s.cli("snapshot", "attach", "web")
        until(connects, "it answers when it is attached")
        require(s.guest().get("isolated") is None, "%s" % s.guest())
        # It is the guest that was saved: what was served before is known to it, and the connection is its own.
        require(s.get("/", connection=kept)[0] == 200, "the connection that was open when it was saved")
        after = s.requests()
        require(after is not None and served.splitlines()[0] in after, "its log has what was served before it was saved")
        # Input is tried on clones of it as ever.
        require(s.get("/cgi-bin/lookup?host=localhost&note=left|right")[0] == 200, "a request that is held")
        require(s.get("/cgi-bin/lookup?host=localhost;id>/var/www/touched/x")[0] is None, "an attack")
        require(not s.touched("x"), "it had no effect")
        # A snapshot that somebody changed: refused, and the guest goes on.
        path = os.path.join(s.config["state"], "snapshots", "one")
        with open(path, "r+b") as f:
            f.seek(-30, os.SEEK_END)
            byte = f.read(1)[0]
            f.seek(-30, os.SEEK_END)
            f.write(bytes([byte ^ 1]))
        pid = s.vmm()["pid"]
        require("changed" in s.refusal("snapshot", "restore", "web", "one"), "a changed one is refused")
        require("changed" in s.refusal("snapshot", "verify", "one"), "and not whole")
        require(s.vmm()["pid"] == pid and s.get("/")[0] == 200, "the guest goes on")
        kept.close()


def a_guest_starts_from_its_snapshot():
    with Snapshots(start="snapshot", verify="off") as s:
        s.wait_for_guest()
        until(lambda: any(x["name"] == "web-start" for x in s.cli("snapshot", "list")), "it is saved when it has booted and is idle")
        boot = s.guest()["boot_s"]
        s.stop()
        s.start()
        s.wait_for_guest()
        with open(os.path.join(s.directory, "gateway.log")) as f:
            log = f.read()
        require("guest web starts from snapshot web-start" in log and "guest web goes on from its snapshot" in log, "a warm start")
        print("a boot took %.1f s; %s" % (boot, [x for x in log.splitlines() if "goes on from" in x][-1]))
        require(s.get("/cgi-bin/lookup?host=localhost&note=fish;chips")[0] == 200, "it serves, and is protected")


if __name__ == "__main__":
    main([a_guest_goes_on_where_it_was_saved, a_guest_starts_from_its_snapshot])
