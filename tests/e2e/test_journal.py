#!/usr/bin/python3
"""A recorded guest is exploited and its vmm killed as soon as it has answered: ledger and journal hold everything up to the last
input, and the replay shows the exploit. Then, checkpoints and retention."""

import glob
import hashlib
import json
import os
import re
import signal
import socket
import struct
import sys
import time

from stand import AS_SHIPPED, GUEST, Stand, main, require, run, until

JOURNAL = 11  # ledger/entry.h
RING = 16 << 20


def entries(stand):
    """(type, body) of all entries of the ledger."""
    found = []
    for path in sorted(glob.glob(os.path.join(stand.directory, "state", "ledger", "entries", "*"))):
        with open(path, "rb") as f:
            data = f.read()
        at = 0
        while at + 2 <= len(data):
            length = struct.unpack_from(">H", data, at)[0]
            entry = data[at + 2:at + 2 + length]
            at += 2 + length
            if len(entry) == length and length > 9:
                found.append((entry[0], json.loads(entry[9:])))
    return found


def hashes(stand, run_number):
    return [body for kind, body in entries(stand) if kind == JOURNAL and body["run"] == run_number]


def chunks(path):
    """Hash of each chunk of a segment, as its file says it; journal.md."""
    with open(path, "rb") as f:
        data = f.read()
    at, found = 208, []
    while at + 80 <= len(data):
        control, payload = struct.unpack_from("<I", data, at + 12)[0], struct.unpack_from("<I", data, at + 20)[0]
        if at + 80 + control + payload > len(data):
            break
        found.append(data[at + 48:at + 80].hex())
        at += 80 + control + payload
    return found


def replay(stand, *arguments):
    got = run(stand.program("foretaste"), "--control", stand.config["control"], "replay", "web", "--json", *arguments, check=False)
    lines = got.stdout.splitlines()
    report = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None
    return got.returncode, report, lines[:-1], got.stderr


def vmm(stand):
    """The process that has the guest, not its forks."""
    found = [pid for pid, _ in stand.processes("foretaste-vmm")]
    parents = {pid: int(re.search(r"^PPid:\s*(\d+)", open("/proc/%d/status" % pid).read(), re.M)[1]) for pid in found}
    return next(pid for pid in found if parents[pid] not in found)


def exploited_then_killed():
    # Nothing is held: the exploit reaches the live guest.
    with Stand(sys.argv, guest=dict(AS_SHIPPED, journal="on", restart="never"), service={"mode": "observe", "screen": "suspicious"},
               top={"journal": {"checkpoint_every": "15 s"}, "clone": {"wall": "2 min", "max": 1}}) as stand:
        stand.wait_for_guest()
        status, body = stand.get("/cgi-bin/lookup?host=localhost;touch%20/var/www/touched/recorded")
        os.kill(vmm(stand), signal.SIGKILL)
        require(status == 200, "the exploit got %s %s" % (status, body))
        until(lambda: any(line.get("event_type") == "engine" and "is down" in json.dumps(line) for line in stand.feed()),
              "the feed says that the guest is down")
        directory = os.path.join(stand.directory, "state", "journal", "web")
        code, report, lines, errors = replay(stand, "--trace", "syscalls,network", "--from", "1")
        require(code == 0, "replay: exit %d: %s" % (code, errors))
        require(any("/var/www/touched/recorded" in line for line in lines), "the replay does not show the exploit")
        require(report["checks"] > 10 and report["frames_in"] > 10 and report["frames_out"] > 10, "replay: %s" % report)
        print("     replayed %s" % json.dumps(report)[:300])
        # What is in the files is in the ledger: each chunk that the supervisor could be told of, and the rest by the ring's hash.
        noted = until(lambda: [h for h in hashes(stand, 1) if "ring_from" in h] and hashes(stand, 1), "the ring's hash is in the ledger")
        told = {h["hash"] for h in noted if "chunk" in h}
        there = [h for name in sorted(glob.glob(directory + "/*.journal")) for h in chunks(name)]
        require(told and told <= set(there), "chunks in the ledger that are not in the journal")
        untold = there[[i for i, h in enumerate(there) if h in told][-1] + 1:]
        ring = next(h for h in noted if "ring_from" in h)
        with open(directory + "/000001.ring", "rb") as f:
            data = f.read()[4096:]
        left = b"".join(data[at % RING:at % RING + 1] for at in range(ring["ring_from"], ring["ring_to"]))
        require(hashlib.blake2b(left, digest_size=32).hexdigest() == ring["hash"], "the ring is not what the ledger says")
        require(len(untold) <= 2, "%d chunks at the end are not in the ledger" % len(untold))
        require(len(left) or not untold, "what is in no chunk of the ledger is not in its ring either")
        print("     %d chunks in the ledger, %d bytes in the ring, %d chunks written after the end" % (len(told), len(left), len(untold)))
        require([h for h in noted if "checkpoint" in h], "no checkpoint is in the ledger")
        # A byte of it changed: refused, and by name.
        with open(directory + "/000001-000001.journal", "r+b") as f:
            f.seek(300)  # in one of the first chunks
            byte = f.read(1)
            f.seek(300)
            f.write(bytes([byte[0] ^ 4]))
        code, report, lines, errors = replay(stand, "--from", "1")
        require(code > 1 and "of segment 1 was changed" in errors, "a changed journal: exit %d, %s" % (code, errors))


def exploited_then_panics():
    # A service that runs what it is sent, as root: the last thing that the guest is made to do is to end itself.
    with Stand(sys.argv, guest=dict(AS_SHIPPED, journal="on", restart="never"), service={"mode": "observe", "screen": "suspicious"},
               cmdline="foretaste.udp=7777 panic=-1", top={"journal": {"checkpoint_every": "24 h"}}) as stand:
        stand.wait_for_guest()
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(1)

        def answers():
            client.sendto(b"are you there", (GUEST, 7777))
            try:
                return client.recv(100)
            except OSError:
                return None
        until(answers, "the guest's UDP service answers")
        client.sendto(b"run: echo owned > /var/www/touched/last-words; echo c > /proc/sysrq-trigger", (GUEST, 7777))
        until(lambda: any(line.get("event_type") == "engine" and "is down" in json.dumps(line) for line in stand.feed()),
              "the feed says that the guest is down")
        code, report, lines, errors = replay(stand, "--trace", "syscalls,inputs")
        require(code == 0 and report["end"] == "guest reset", "replay: exit %d: %s %s" % (code, errors, report))
        inputs = [n for n, line in enumerate(lines) if " input frame " in line]
        acts = [n for n, line in enumerate(lines) if "/var/www/touched/last-words" in line]
        ends = [n for n, line in enumerate(lines) if "/proc/sysrq-trigger" in line]
        require(inputs and acts and ends, "the replay does not show the exploit, or the end: %s" % lines[-3:])
        # Everything up to the last input, and what that did: each line begins with its instruction.
        last = int(lines[inputs[-1]].split()[0])
        require(any(int(lines[n].split()[0]) > last - 10000000 for n in acts), "the exploit is not near the end")
        noted = until(lambda: [h for h in hashes(stand, 1) if "ring_from" in h] and hashes(stand, 1), "the ring's hash is in the ledger")
        there = [h for name in sorted(glob.glob(os.path.join(stand.directory, "state", "journal", "web", "*.journal"))) for h in chunks(name)]
        told = [h["hash"] for h in noted if "chunk" in h]
        require(there[-1] in told or report["in_ring"], "the last chunk is not in the ledger, and nothing is in the ring")
        print("     from the first state to the end: %d instructions, last input at %d, reset at %d" % (
            report["instructions"] - report["from"], last, report["instructions"]))


def checkpoints_and_retention():
    with Stand(sys.argv, guest=dict(AS_SHIPPED, journal="on"), top={"journal": {"checkpoint_every": "10 s", "keep": "1 min"}}) as stand:
        stand.wait_for_guest()
        directory = os.path.join(stand.directory, "state", "journal", "web")

        def whole():
            return sorted(os.path.basename(p) for p in glob.glob(directory + "/*.checkpoint"))
        until(lambda: len(whole()) >= 3, "three checkpoints")
        require(stand.get("/")[0] == 200, "the guest serves")
        for name in os.listdir(directory):
            require(os.stat(os.path.join(directory, name)).st_mode & 0o77 == 0, "%s can be read by others" % name)
        # The gateway stops in order; what is there is replayed from a directory, without a gateway.
        require(stand.stop() == 0, "the gateway's exit code")
        got = run(stand.program("foretaste"), "replay", directory, "--disk", stand.config["guests"]["web"]["disk"], "--json")
        report = json.loads(got.stdout.splitlines()[-1])
        require(report["end"] == "end of the journal" and report["checked"] == report["instructions"], "replay: %s" % report)
        # The next life of the guest is another run; what is older than a minute goes once that has a checkpoint.
        old = time.time() - 120
        for path in glob.glob(directory + "/000001-*"):
            os.utime(path, (old, old))
        stand.start()
        stand.wait_for_guest()
        until(lambda: whole() and all(name.startswith("000002-") for name in whole()), "the old run's parts are removed")
        require(not glob.glob(directory + "/000001*"), "something of the old run is left: %s" % os.listdir(directory))


main([exploited_then_killed, exploited_then_panics, checkpoints_and_retention])
