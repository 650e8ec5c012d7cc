#!/usr/bin/python3
"""Log rotation as installed, by logrotate itself: what was written is in the rotated file, whoever has the file open goes on in
the live one, and nothing grows for ever. Arguments: SNIPPET FORETASTE"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

SNIPPET, FORETASTE = map(os.path.abspath, sys.argv[1:3])
failures = 0


def require(condition, text):
    global failures
    if not condition:
        failures += 1
        print("FAIL " + text, flush=True)


def content(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return None


with open(SNIPPET) as f:
    snippet = f.read()
# Without a moment in which lines can be lost; and the files' owner is the gateway's business.
require("copytruncate" not in snippet and "foretaste reopen-logs" in snippet, "the logs are not reopened")

program = shutil.which("logrotate", path="/usr/sbin:/usr/bin:/sbin:/bin")
if not program:
    print("SKIP: there is no logrotate here")
    sys.exit(77)
directory = tempfile.mkdtemp(prefix="foretaste-logrotate-")
try:
    os.chmod(directory, 0o755)
    require(snippet.count("/var/lib/foretaste/") == 2, "the snippet does not name the default state directory")
    config = os.path.join(directory, "conf")
    with open(config, "w") as f:
        text = snippet.replace("/var/lib/foretaste/", directory + "/")
        f.write(re.sub(r"\S*/foretaste reopen-logs", os.path.join(directory, "told") + " reopen-logs", text))
    os.chmod(config, 0o644)
    # Stands for the command line: what a gateway does when it is told is tested in tests/gateway and tests/e2e.
    with open(os.path.join(directory, "told"), "w") as f:
        f.write("#!/bin/sh\necho \"$@\" >>%s\n" % os.path.join(directory, "calls"))
    os.chmod(os.path.join(directory, "told"), 0o755)
    paths = [os.path.join(directory, name) for name in ("feed.json", "console.log", "mail.log")]
    quiet = os.path.join(directory, "quiet.log")
    open(quiet, "w").close()

    def open_logs():  # as src/gateway/files.c does
        return [os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640) for path in paths]

    logs = open_logs()

    def rotate():
        done = subprocess.run([program, "-f", "-s", os.path.join(directory, "state"), config], capture_output=True, text=True,
                              check=False)
        require(done.returncode == 0 and not done.stderr, "logrotate: %d %s" % (done.returncode, done.stderr))

    for turn in range(10):
        for fd in logs:
            os.write(fd, b"%d\n" % turn)
        rotate()
        require((content(os.path.join(directory, "calls")) or "").splitlines() == ["reopen-logs"] * (turn + 1),
                "the gateway is told once a rotation")
        for fd in logs:
            os.write(fd, b"late\n")  # before it has done so
            os.close(fd)
        logs = open_logs()
        for path in paths:
            require(content(path + ".1") == "%d\nlate\n" % turn, "%s.1 after %d: %r" % (path, turn, content(path + ".1")))
            require(content(path) == "", "%s is not new: %r" % (path, content(path)))
    for path in paths:
        kept = sorted(name for name in os.listdir(directory) if name.startswith(os.path.basename(path) + "."))
        require(len(kept) == 8, "%s: kept are %s" % (path, kept))
    require(not os.path.exists(quiet + ".1"), "an empty log was rotated")
finally:
    shutil.rmtree(directory)
sys.exit(1 if failures else 0)
