#!/usr/bin/python3
"""Verdicts that are come to again: an attack is stopped, and `foretaste replay --verdict ID` finds the same evidence and the same verdict,
bit for bit, out of the guest's journal, and from the seed that was kept where there is none; then the same input on another snapshot.
That a replay that differs stops and says where: tests/guest/test_verdict.c. Arguments: BUILD-DIRECTORY [IMAGE-DIRECTORY]."""

import json
import os
import sys

from stand import AS_SHIPPED, Stand, main, require, run, until

ATTACK = "/cgi-bin/lookup?host=localhost;touch%20/var/www/touched/again"
INNOCENT = "/cgi-bin/lookup?host=localhost&note=a;b"


def again(stand, number, *more):
    got = run(stand.program("foretaste"), "--control", stand.config["control"], "replay", "--verdict", str(number), "--json", *more, check=False)
    lines = got.stdout.splitlines()
    return got.returncode, json.loads(lines[-1]) if lines else None, got.stderr


def holds(stand):
    return [a["alert"]["context"]["foretaste"] for a in stand.alerts() if "hold" in a["alert"]["context"]["foretaste"]]


def attack(stand):
    """The record of a new attack's hold, which has to be stopped."""
    before = len(holds(stand))
    status, _ = stand.get(ATTACK)
    require(status is None, "the attack got an answer: %s" % status)
    hold = until(lambda: len(holds(stand)) > before and holds(stand)[before], "its alert in the feed")
    require((hold["verdict"], hold["disposition"]) == ("malicious", "dropped"), "the attack: %s, %s" % (hold["verdict"], hold["disposition"]))
    return hold


def expect_same(stand, hold, *more):
    code, report, errors = again(stand, hold["hold"], *more)
    require(code == 0 and report["same"], "verdict %s: exit %d: %s %s" % (hold["hold"], code, report and report.get("difference"), errors))
    for recorded, now in zip(hold["trials"], report["again"]["trials"]):
        require(recorded["sha256"] == now["sha256"] and recorded["state_hash"] == now["state_hash"], "%s is not %s" % (now, recorded))
    require(report["again"]["rule"] == hold["rule"], "another rule: %s" % report["again"]["rule"])
    print("     verdict %d again: %s by %s, %s" % (hold["hold"], report["again"]["verdict"], hold["rule"],
                                                    [(t["role"], t["events"], t["sha256"][:12]) for t in report["again"]["trials"]]))
    return report


def event(stand, kind):
    return [line for line in stand.feed() if line.get("event_type") == "engine" and kind in json.dumps(line)]


def out_of_the_journal():
    with Stand(sys.argv, guest=dict(AS_SHIPPED, journal="on"), top={"journal": {"checkpoint_every": "10 s"}}) as stand:
        key = os.path.join(stand.directory, "key")
        with open(key, "w") as f:
            f.write("ab" * 32)
        os.chmod(key, 0o600)
        stand.stop()
        stand.config["snapshots"] = {"key": key}  # and the journal is encrypted, too
        stand.start()
        stand.wait_for_guest()
        until(lambda: event(stand, "checkpoint 2 of guest web"), "a checkpoint behind the boot")
        hold = attack(stand)
        require(hold["seed"]["run"] >= 1 and len(hold["rules_sha256"]) == 64, "the record: %s" % hold["seed"])
        # The request is in the journal when that has been written; what the vmm did since is in its ring.
        expect_same(stand, hold)
        # Where its input was taken.
        got = run(stand.program("foretaste"), "--control", stand.config["control"], "replay", "--to", "verdict:%d" % hold["hold"], "--json")
        require(json.loads(got.stdout.splitlines()[-1])["instructions"] == hold["seed"]["instructions"], "another place: %s" % got.stdout)
        # A clean one: it went on to the live guest.
        before = len(holds(stand))
        require(stand.get(INNOCENT)[0] == 200, "the innocent request")
        clean = until(lambda: len(holds(stand)) > before and holds(stand)[before], "its alert")
        require(clean["verdict"] == "clean", "the innocent request: %s" % clean["verdict"])
        expect_same(stand, clean)
        require(not event(stand, "seed-kept"), "a seed was kept though there is a journal")


def from_kept_seeds():
    with Stand(sys.argv, guest=AS_SHIPPED, top={"seeds": {"every": "1 h"}}) as stand:
        stand.wait_for_guest()
        first = attack(stand)
        until(lambda: event(stand, "seed of the verdict on hold %d" % first["hold"]), "its seed is kept")
        seeds = os.path.join(stand.directory, "state", "seeds")
        require(os.listdir(seeds) == ["web-%d" % first["hold"]], "kept: %s" % os.listdir(seeds))
        require(os.stat(os.path.join(seeds, "web-%d" % first["hold"])).st_mode & 0o77 == 0, "others can read a kept seed")
        # Not more often than seeds.every: counted, told, and said when somebody asks.
        second = attack(stand)
        until(lambda: event(stand, "is not kept: the last one is younger than seeds.every"), "the second one is not, and the feed says so")
        status = stand.cli("status")["seeds"]
        require((status["kept"], status["skipped"], status["failed"], status["files"]) == (1, 1, 0, 1), "status: %s" % status)
        code, _, errors = again(stand, second["hold"])
        require(code > 1 and "no seed was kept for it" in errors, "the one that is not kept: exit %d, %s" % (code, errors))
        expect_same(stand, first)
        # The same guest, later: it does the same.
        stand.cli("snapshot", "save", "web", "later")
        report = expect_same(stand, first, "--against", "later")
        there = report["against"]
        require(there["verdict"] == "malicious" and there["rule"] == first["rule"], "there: %s by %s" % (there["verdict"], there["rule"]))
        require(there["trials"][0]["handled"], "it did not take the input: %s" % there["trials"][0])


main([out_of_the_journal, from_kept_seeds])
