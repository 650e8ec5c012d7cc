#!/usr/bin/python3
"""The attacks and innocent requests of this directory against a protected guest that has a life of its own: a timer that starts
programs and writes files every 30 seconds. No attack has an effect, no innocent request is harmed, and programs that use up a
clone end at the budget that they use up."""

import os
import subprocess
import sys

from stand import AS_SHIPPED, GUEST, Stand, main, require, until

HERE = os.path.dirname(os.path.abspath(__file__))
TARGET = "http://" + GUEST
HOLDS = 200

# Requests that a rule holds and that do no harm.
INNOCENT = [
    "/cgi-bin/lookup?host=localhost&note=fish;chips%d",
    "/cgi-bin/lookup?host=guest&note=left|right%d",
    "/cgi-bin/lookup?host=localhost&note=it+costs+%%24%d%%3B+echo+that",
    "/cgi-bin/greet?name=%%E7%%94%%B0%%E4%%B8%%AD%%E8%%8A%%B1%%E5%%AD%%90%d",
    "/cgi-bin/greet?name=" + "ho+" * 70 + "%d",
    "/cgi-bin/remind?after=45&text=milk%%3B+eggs&from=%d",
    "/cgi-bin/lookup?host=localhost&note=%%60quoted%d%%60",
    "/about.html?back=a;b%d",
]


def executables(folder):
    folder = os.path.join(HERE, folder)
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if os.access(os.path.join(folder, name), os.X_OK)
            and os.path.isfile(os.path.join(folder, name))]


def ours(alert):
    return alert["alert"]["context"]["foretaste"]


def story(record):
    """What a person needs to see when a verdict is wrong."""
    counted = ["%s %s" % (e.get("event"), e.get("says", "")) for e in record.get("evidence", []) if not e.get("twin")]
    return "%s, rule %s: %s; %s" % (record["verdict"], record.get("rule"), record["input"].get("printable", "")[:120], counted)


def attacks_fail_and_innocents_pass():
    with Stand(sys.argv, guest=AS_SHIPPED, cmdline="foretaste.ticker=30") as stand:
        stand.wait_for_guest()

        # First of all, while nothing of what they need is in the guest's page cache.
        for twin in executables("innocent"):
            got = subprocess.run([twin, TARGET], timeout=300)
            require(got.returncode == 0, "the innocent twin of %s was not answered as it should be" % os.path.basename(twin))
        twins = stand.wait_alerts(len(executables("innocent")))
        for alert in twins:
            require(ours(alert)["verdict"] == "clean", "an innocent twin is called " + story(ours(alert)))

        # The one that acts late waits for its effect while the others are sent.
        attacks = executables("attacks")
        late = [subprocess.Popen([a, TARGET]) for a in attacks if os.path.basename(a) == "delayed"]
        until(lambda: len(stand.alerts()) > len(twins), "the late attack has its verdict")
        for attack in attacks:
            if os.path.basename(attack) != "delayed":
                code = subprocess.run([attack, TARGET], timeout=300).returncode
                require(code == 1, "attack %s: exit code %d, expected 1 (no effect)" % (os.path.basename(attack), code))
        alerts = stand.wait_alerts(len(twins) + len(attacks))
        for alert in alerts[len(twins):]:
            require((ours(alert)["verdict"], ours(alert)["disposition"]) == ("malicious", "dropped"),
                    "an attack is called " + story(ours(alert)))
        before = len(alerts)

        for n in range(HOLDS):
            path = INNOCENT[n % len(INNOCENT)] % n
            status, body = stand.get(path)
            require(status == 200, "innocent request %s was answered with %s %s" % (path, status, body))
        alerts = stand.wait_alerts(before + HOLDS)
        wrong = [story(ours(a)) for a in alerts[before:] if ours(a)["verdict"] != "clean"]
        require(not wrong, "%d wrong verdicts in %d innocent holds: %s" % (len(wrong), HOLDS, wrong[:3]))
        require(len(alerts) == before + HOLDS, "%d holds for %d requests" % (len(alerts) - before, HOLDS))

        for process in late:
            require(process.wait(300) == 1, "the attack that acts late: exit code %d, expected 1 (no effect)" % process.returncode)
        status, listing = stand.get("/touched/")
        require(status == 200 and '"name"' not in listing, "the live guest was touched: %s" % listing)
        # The timer did what it is for.
        with open(os.path.join(stand.directory, "state", "console-web.log"), errors="replace") as f:
            require("foretaste-guest: tick 1" in f.read(), "the guest's timer never ran")


def programs_without_end_stop_at_their_budget():
    normal = {"may_exec": ["/usr/lib/foretaste/abuse/*"], "may_connect": ["unix:/run/fcgiwrap/socket"], "may_write": ["/var/log/nginx/*"]}
    with Stand(sys.argv, guest=AS_SHIPPED, service={"normal": normal}, top={"clone": {"wall": "10 s"}}) as stand:
        stand.wait_for_guest()
        # A fast host gets to the budget of instructions, a slow one to that of wall time.
        for n, (name, ends) in enumerate((("dirty", ("memory",)), ("spin", ("handling", "instructions", "wall")),
                                          ("fork", ("handling", "instructions", "memory", "wall")))):
            status, _ = stand.get("/abuse/%s?x=a;b" % name)
            require(status is None, "/abuse/%s was answered with %s" % (name, status))
            record = ours(stand.wait_alerts(n + 1)[n])
            end = record["trials"][0]["end"]
            require(any(word in end for word in ends), "/abuse/%s ended at %s, expected %s" % (name, end, " or ".join(ends)))
            require(record["verdict"] != "clean" and record["disposition"] == "dropped",
                    "/abuse/%s: %s, %s" % (name, record["verdict"], record["disposition"]))
            require(stand.get("/")[0] == 200, "no service after /abuse/%s" % name)


main([attacks_fail_and_innocents_pass, programs_without_end_stop_at_their_budget])
