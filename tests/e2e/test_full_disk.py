#!/usr/bin/python3
"""The file system that has a guest's journal, its disk's overlay, the ledger and the feed is full for a while, all at once. What
happens is in the feed and in the metrics, the policy holds, and nothing that was acknowledged is lost: no file that the guest was told
is on disk, no record of the journal but those of a gap that the feed names."""

import ctypes
import os
import signal
import socket
import sys

from stand import AS_SHIPPED, GUEST, Failure, Stand, main, require, run, until

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18
SIZE = 320 << 20


class Small(Stand):
    """state is a file system of its own, in a mount namespace of the test's own."""

    def make_net(self):
        state = self.config["state"]
        os.mkdir(state, 0o755)
        run("mount", "-t", "tmpfs", "-o", "size=%d,mode=755" % SIZE, "small", state)
        super().make_net()

    def __exit__(self, *what):
        try:
            super().__exit__(*what)
        finally:
            run("umount", "-l", self.config["state"], check=False)

    def fill(self):
        with open(os.path.join(self.config["state"], "filler"), "wb", buffering=0) as f:
            piece = bytes(1 << 20)
            while True:
                try:
                    if not f.write(piece):
                        break
                except OSError:
                    if len(piece) == 1:
                        break
                    piece = piece[:len(piece) // 2]

    def make_room(self):
        os.unlink(os.path.join(self.config["state"], "filler"))

    def in_guest(self, command, timeout=120):
        """What a command in the live guest prints."""
        status, body = self.get("/cgi-bin/lookup?host=localhost;" + command.replace(" ", "+").replace("&", "%26"), timeout=timeout)
        return body if status == 200 else None

    def write(self, name, kibibytes=4):
        """True: the guest was told that it is on disk."""
        said = self.in_guest("dd if=/dev/urandom of=/var/www/touched/%s bs=1k count=%d conv=fsync 2>/dev/null && echo acknowledged" % (name, kibibytes))
        return said is not None and "acknowledged" in said

    def metric(self, name):
        text = run(self.program("foretaste"), "--control", self.config["control"], "metrics").stdout
        found = [line.split()[-1] for line in text.splitlines() if line.startswith("foretaste_%s{" % name)]
        return float(found[0]) if found else None

    def told(self, word):
        return [line["engine"]["message"] for line in self.feed() if line["event_type"] == "engine" and word in line["engine"]["message"]]

    def flood(self, done):
        """Frames that the guest throws away and its journal keeps, until done()."""
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(400):
            for _ in range(100):
                s.sendto(os.urandom(1400), (GUEST, 9))
            if done():
                break
        s.close()
        require(done(), "16 MiB of frames did not fill the journal's ring")


def small(policy):
    return Small(sys.argv, guest=dict(AS_SHIPPED, journal="on"),
                 top={"journal": {"on_failure": policy, "checkpoint_every": "24 h"}, "services": {}})


def replay(stand, *arguments):
    return run(stand.program("foretaste"), "--control", stand.config["control"], "replay", "web", "--json", *arguments, check=False)


def killed_and_back(stand, written):
    """Everything that the guest was told is on disk is there."""
    pid = stand.guests()
    os.kill(pid, signal.SIGKILL)
    until(lambda: stand.guests() not in (None, pid) and stand.metric("guest_up") == 1, "another process has the guest")
    stand.wait_for_guest()
    missing = [name for name in written if not stand.touched(name)]
    require(not missing, "acknowledged and lost: %s" % missing)


def goes_on():
    with small("continue") as stand:
        stand.guests = lambda: stand.cli("guests")["web"]["pid"]
        stand.wait_for_guest()
        written = ["w%d" % n for n in range(5) if stand.write("w%d" % n)]
        require(len(written) == 5, "the guest cannot write")
        require(stand.metric("journal_recording") == 1 and stand.metric("journal_failing") == 0, "the journal is on")
        require(stand.metric("disk_overlay_bytes") >= 16 << 20 and stand.metric("disk_overlay_records_total") > 5, "the overlay's figures")
        stand.fill()
        # The segment that is open has its room; with the next one writes fail, and the guest is told so.
        refused = False
        for n in range(5, 60):
            if stand.write("w%d" % n, 600):
                written.append("w%d" % n)
            else:
                refused = True
                break
        require(refused, "33 MB were acknowledged on a full disk")
        require(stand.metric("disk_failing") == 1 and stand.metric("disk_failures_total") >= 1, "the disk fails and the metrics say so")
        until(lambda: stand.metric("journal_failing") == 1, "the journal fails and the metrics say so")
        stand.flood(lambda: stand.metric("journal_gaps_total") >= 1)
        require(stand.metric("journal_recording") == 0, "a gap, and still recording")
        stand.make_room()
        until(lambda: stand.metric("journal_recording") == 1 and stand.metric("journal_failing") == 0, "the journal begins anew")
        until(lambda: stand.metric("disk_failing") == 0, "the disk takes writes again")
        for word in ("its writes fail with I/O errors", "it takes writes again", "the journal of guest web cannot be written", "is written again",
                     "has a gap from instruction"):
            until(lambda word=word: stand.told(word), "the feed says \"%s\"" % word)
        until(lambda: stand.told("checkpoint 2 of guest web (run 1) is saved"), "the journal has a checkpoint behind the gap")
        require(len(stand.told("was not saved")) <= 2, "tries that failed are told one by one: %s" % stand.told("was not saved"))
        require(stand.cli("status")["processes"]["ledger"]["status"]["feed"]["lost"] == 0, "lines of the feed were lost")
        killed_and_back(stand, written)
        got = replay(stand, "--run", "1")
        require(got.returncode == 0, "a replay from behind the gap: exit %d %s" % (got.returncode, got.stderr))
        got = replay(stand, "--run", "1", "--from", "1")
        require(got.returncode > 1 and "has a gap" in got.stderr, "a replay over the gap: exit %d %s" % (got.returncode, got.stderr))
        print("     %d files acknowledged, %d there; checkpoints told as failed: %d" % (len(written), len(written), len(stand.told("was not saved"))))


def stands_still():
    with small("hold") as stand:
        stand.guests = lambda: stand.cli("guests")["web"]["pid"]
        stand.wait_for_guest()
        written = ["w%d" % n for n in range(3) if stand.write("w%d" % n)]
        stand.fill()
        stand.flood(lambda: stand.metric("journal_stands_still") == 1)
        require(stand.metric("journal_gaps_total") == 0, "a gap, where the guest was to stand still")
        # Long enough to be worth telling; the feed has no room for it yet.
        until(lambda: stand.metric("journal_stood_still_seconds_total") > 1, "it stands still for a while")
        stand.make_room()
        until(lambda: stand.metric("journal_stands_still") == 0, "the guest goes on")
        require(stand.write("after"), "the guest writes again")
        written.append("after")
        require(stand.metric("journal_stood_still_seconds_total") > 0, "for how long it stood still")
        for word in ("stands still", "goes on, after", "is written again"):
            until(lambda word=word: stand.told(word), "the feed says \"%s\"" % word)
        killed_and_back(stand, written)
        got = replay(stand, "--run", "1", "--from", "1")
        require(got.returncode == 0, "a replay of all of it: exit %d %s" % (got.returncode, got.stderr))


if __name__ == "__main__":
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0 and (libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)):
        raise Failure("no mount namespace")
    main([goes_on, stands_still])
