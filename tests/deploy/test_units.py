#!/usr/bin/python3
"""The systemd units: understood by systemd, how exposed systemd finds each, and a reason for whatever keeps it from less.
Arguments: UNIT..."""

import json
import os
import re
import subprocess
import sys
import tempfile

# What systemd 252 says of a unit, which is the aim (2.0) as well, so that nobody opens it further by accident.
MOST = {"foretaste.service": 2.0}
failures = 0


def require(condition, text):
    global failures
    if not condition:
        failures += 1
        print("FAIL " + text, flush=True)


def analyze(*arguments):
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def exposure(path):
    """(overall, [(name, exposure)] of what counts against it)"""
    _, table, error = analyze("security", "--offline=true", "--no-pager", path)
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", table)
    require(overall, "no exposure of %s: %s%s" % (path, table, error))
    _, rows, _ = analyze("security", "--offline=true", "--json=short", path)
    against = [(row["name"], float(row["exposure"])) for row in json.loads(rows) if float(row["exposure"] or 0) > 0]
    return float(overall[1]) if overall else 10.0, against


def written(directory, name, text):
    path = os.path.join(directory, name)
    with open(path, "w") as f:
        f.write(text)
    return path


if subprocess.run(["sh", "-c", "command -v systemd-analyze"], capture_output=True, check=False).returncode:
    print("SKIP: there is no systemd-analyze here")
    sys.exit(77)
for path in sys.argv[1:]:
    name = os.path.basename(path)
    with open(path) as f:
        text = f.read()
    with tempfile.TemporaryDirectory() as directory:
        # verify wants to see the programs; those of the unit are not installed here.
        there = written(directory, name, re.sub(r"^(Exec\w+=)\S+", r"\1/bin/true", text, flags=re.M))
        code, out, error = analyze("verify", "--man=no", there)
        error = "\n".join(line for line in error.splitlines() if name in line)
        require(code == 0 and not error, "%s: verify: %s%s" % (name, out, error))
        overall, against = exposure(path)
    print("%s: exposure %.1f (at most %.1f)" % (name, overall, MOST[name]))
    require(overall <= MOST[name], "%s: exposure %.1f, it may be %.1f" % (name, overall, MOST[name]))
    comments = " ".join(line for line in text.splitlines() if line.startswith("#"))
    for what, points in against:
        # "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)": any of the words behind "~", otherwise the setting itself
        words = re.findall(r"AF_\w+|@[\w-]+|[A-Z]{3,}", what.split("~")[1]) if "~" in what else re.findall(r"\w+(?==)", what)
        words = [word for word in words if word != "CAP"] + [word[4:] for word in words if word.startswith("CAP_")]
        require(any(word in comments for word in words), "%s: no comment gives the reason for %s (%s)" % (name, what, points))
        print("  %.1f  %s" % (points, what))
sys.exit(1 if failures else 0)
