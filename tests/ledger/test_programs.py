#!/usr/bin/python3
"""The ledger from outside: its files, proofs and checkpoints against RFC 6962 as Python's hashlib computes it, and what
foretaste-verify and foretaste prove say of them. Arguments: MAKE_LOG FORETASTE_VERIFY FORETASTE."""

import base64
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

MAKE_LOG, VERIFY, FORETASTE = map(os.path.abspath, sys.argv[1:4])
directory = tempfile.mkdtemp(prefix="foretaste-test-ledger-")
failures = 0


def require(condition, text):
    global failures
    if not condition:
        failures += 1
        print("FAIL " + text, flush=True)


def path(name):
    return os.path.join(directory, name)


def write(name, data):
    with open(path(name), "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())
    return path(name)


def run(*command, stdin=b"", code=0):
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, timeout=300)
    require(done.returncode == code, "%s: exit status %d, expected %d: %s%s" % (" ".join(command[1:]), done.returncode, code,
                                                                            done.stdout.decode(), done.stderr.decode()))
    return done.stdout.decode()


# ---- RFC 6962, section 2.1, as it is written there --------------------------------------------------------------------

def leaf_hash(entry):
    return hashlib.sha256(b"\0" + entry).digest()


def split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(hashes):
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return hashlib.sha256(b"\1" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def audit_path(m, hashes):
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    return audit_path(m, hashes[:k]) + [mth(hashes[k:])] if m < k else audit_path(m - k, hashes[k:]) + [mth(hashes[:k])]


def subproof(m, hashes, whole):
    if m == len(hashes):
        return [] if whole else [mth(hashes)]
    k = split(len(hashes))
    if m <= k:
        return subproof(m, hashes[:k], whole) + [mth(hashes[k:])]
    return subproof(m - k, hashes[k:], False) + [mth(hashes[:k])]


def read_entries(log):
    entries = []
    for name in sorted(os.listdir(os.path.join(log, "entries"))):
        with open(os.path.join(log, "entries", name), "rb") as f:
            data = f.read()
        at = 0
        while at < len(data):
            n = struct.unpack(">H", data[at:at + 2])[0]
            entries.append(data[at + 2:at + 2 + n])
            at += 2 + n
    return entries


def checkpoints(log, name):
    with open(os.path.join(log, name), "rb") as f:
        text = f.read().decode()
    notes = text.split("\n\n")
    return [tuple(notes[i].split("\n")) for i in range(0, len(notes) - 1, 2)]


def check_log(log):
    """Every checkpoint and every tile, computed anew."""
    hashes = [leaf_hash(entry) for entry in read_entries(log)]
    seen = checkpoints(log, "checkpoints") + checkpoints(log, "epochs")
    require(len(seen) > 3, "%d checkpoints" % len(seen))
    for origin, size, root in seen:
        require(origin == "example.com/made", "origin %s" % origin)
        require(base64.b64decode(root) == mth(hashes[:int(size)]), "the root of %s entries" % size)
    level, height = hashes, 0
    while level:
        with open(os.path.join(log, "tile", str(height)), "rb") as f:
            require(f.read() == b"".join(level), "tile/%d" % height)
        level = [mth(level[i:i + 256]) for i in range(0, len(level) - len(level) % 256, 256)]
        height += 1
    return hashes


def check_proofs(log, key, hashes):
    for hold in (0, 5, len(hashes) // 2):
        text = run(FORETASTE, "prove", str(hold), log)
        lines = text.split("\n\n")[0].split("\n")
        entry = base64.b64decode(lines[1].split(" ")[1])
        index = int(lines[2].split(" ")[1])
        require(json.loads(entry[9:])["hold"] == hold, "the entry of hold %d is %s" % (hold, entry[9:]))
        require(lines[0] == "c2sp.org/tlog-proof@v1" and leaf_hash(entry) == hashes[index], "entry %d of the proof" % index)
        require([base64.b64decode(x) for x in lines[3:]] == audit_path(index, hashes), "the audit path of entry %d" % index)
        require('"hold":%d' % hold in run(VERIFY, "--proof", "-", "--key", key, stdin=text.encode()), "the entry is shown")
        # Another entry, another index, another hash: none of it holds.
        changed = bytearray(entry)
        changed[-2] ^= 1
        for wrong in (text.replace(lines[1], "extra " + base64.b64encode(changed).decode()),
                      text.replace(lines[2], "index %d" % (index + 1)),
                      text.replace(lines[3], base64.b64encode(bytes(32)).decode()), text[:-3]):
            run(VERIFY, "--proof", "-", "--key", key, stdin=wrong.encode(), code=1)


def check_consistency(log, key, kept, hashes):
    size = int(kept.split("\n")[1])
    proof = run(FORETASTE, "prove", "from=%d" % size, log)
    lines = proof.split("\n\n")[0].split("\n")
    require(lines[0] == "old %d" % size, lines[0])
    require([base64.b64decode(x) for x in lines[1:]] == subproof(size, hashes, True), "the consistency proof from %d" % size)
    run(VERIFY, "--proof", "-", "--key", key, "--since", write("kept", kept), stdin=proof.encode())
    run(VERIFY, "--proof", "-", "--key", key, stdin=proof.encode(), code=1)
    run(VERIFY, "--proof", "-", "--key", key, "--since", path("kept"), code=1,
        stdin=proof.replace(lines[1], base64.b64encode(bytes(32)).decode()).encode())


def check_witness(log, key, kept):
    done = subprocess.run([VERIFY, "--new-witness", "witness.example/w1"], capture_output=True, check=True)
    secret, public = write("witness.secret", done.stdout), write("witness.key", done.stderr)
    require(done.stdout.startswith(b"PRIVATE+KEY+witness.example/w1+"), "the witness' secret")
    cosigned = run(FORETASTE, "verify", log, "--key", key, "--since", path("kept"), "--cosign", secret)
    require(cosigned.count("\n\u2014 ") == 3 and "\u2014 witness.example/w1 " in cosigned, "a cosigned checkpoint")
    run(VERIFY, log, "--key", key, "--since", write("cosigned", cosigned), "--witness", public)
    run(VERIFY, log, "--key", key, "--since", path("cosigned"))
    # One that the witness has not signed, a wrong cosignature, one of somebody else.
    run(VERIFY, log, "--key", key, "--since", path("kept"), "--witness", public, code=1)
    line = cosigned.rstrip("\n").split("\n")[-1]
    wrong = bytearray(base64.b64decode(line.split(" ")[2]))
    wrong[20] ^= 1
    forged = cosigned.replace(line.split(" ")[2], base64.b64encode(wrong).decode())
    run(VERIFY, log, "--key", key, "--since", write("forged", forged), "--witness", public, code=1)
    other = subprocess.run([VERIFY, "--new-witness", "witness.example/w1"], capture_output=True, check=True)
    run(VERIFY, log, "--key", key, "--since", path("cosigned"), "--witness", write("other.key", other.stderr), code=1)
    return cosigned


def check_feed(log, key, kept, newer):
    def line(note, module="checkpoint"):
        return json.dumps({"timestamp": "2026-11-22T22:50:00.1+0000", "event_type": "engine",
                           "engine": {"module": module, "message": note}}) + "\n"
    feed = line("nothing", "feed") + line(kept) + '{"event_type":"flow"}\n' + line(newer)
    out = run(VERIFY, log, "--key", key, "--since", write("feed.json", feed))
    require("goes on from the %s entries" % newer.split("\n")[1] in out, out)
    run(VERIFY, log, "--key", key, "--since", write("none.json", line("nothing", "feed")), code=65)
    # A checkpoint in the feed that the key has not signed.
    run(VERIFY, log, "--key", key, "--since", write("bad.json", feed.replace(kept.split("\n")[1], "3", 1)), code=1)


def main():
    log = path("log")
    os.mkdir(log)
    run(MAKE_LOG, log, "120", "30")
    key = path("key")
    shutil.copy(os.path.join(log, "vkey"), key)
    out = run(VERIFY, log, "--key", key, code=3)
    require("consistent up to entry 123; freshness not proven" in out, out)
    kept = run(FORETASTE, "prove", "checkpoint", log)
    run(MAKE_LOG, log, "500", "0")
    newer = run(FORETASTE, "prove", "checkpoint", log)
    out = run(FORETASTE, "verify", log, "--key", key, "--since", write("kept", kept))
    require("consistent up to entry 623 and goes on from the 124 entries" in out, out)
    answer = json.loads(run(VERIFY, log, "--key", key, "--json", code=3))
    require(answer["consistent"] and not answer["compared"] and answer["entries"] == 624 and answer["epoch"] == 4, str(answer))
    hashes = check_log(log)
    check_proofs(log, key, hashes)
    check_consistency(log, key, kept, hashes)
    cosigned = check_witness(log, key, kept)
    check_feed(log, key, kept, newer)
    # Yesterday's copy against what was kept today, in each of the three forms.
    old = path("old")
    os.mkdir(old)
    run(MAKE_LOG, old, "1")
    run(VERIFY, old, "--key", key, code=1)
    shutil.rmtree(old)
    shutil.copytree(log, old)
    run(MAKE_LOG, log, "10")
    today = write("today", run(FORETASTE, "prove", "checkpoint", log))
    require("truncated or rolled back" in run(VERIFY, old, "--key", key, "--since", today, code=1), "a roll-back")
    require("WRONG" not in run(VERIFY, old, "--key", key, "--since", path("cosigned")), "what was cosigned is in the old one")
    # What cannot be asked.
    run(VERIFY, log, code=64)
    run(VERIFY, log, "--key", "nonsense", code=64)
    run(VERIFY, path("nowhere"), "--key", key, code=66)
    run(VERIFY, log, "--key", key, "--since", path("nowhere"), code=66)
    run(FORETASTE, "prove", "entry=99999", log, code=64)
    run(FORETASTE, "prove", "99999", log, code=66)
    require(cosigned, "there is a cosigned checkpoint")


try:
    main()
finally:
    shutil.rmtree(directory)
print("%d failures" % failures)
sys.exit(1 if failures else 0)
