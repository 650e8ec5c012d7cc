#!/usr/bin/python3
"""What the verdicts are worth on a real guest: innocent input on a cold page cache is clean, each attack is judged by the
rule that names what it did, routine work of the guest is never held against anybody, clones that run wild end at their
budgets, and the two correlation rules see a live guest that misbehaves. Arguments: BUILD-DIRECTORY [IMAGE-DIRECTORY]."""

import concurrent.futures
import json
import os
import subprocess
import sys

from stand import GUEST, PREFIX, Stand, main, require, run, until

HERE = os.path.dirname(os.path.abspath(__file__))
NAMES = ["inject", "inject-builtin", "overflow", "overflow-quiet", "delayed"]
# The rule that has to decide: what the attack did, in the words of the operator's profile.
RULES = {"inject": "service-exec", "inject-builtin": "service-write", "overflow": "code-written",
         "overflow-quiet": "code-written", "delayed": "service-exec"}


def script(kind, name):
    got = subprocess.run([os.path.join(HERE, kind, name), "http://" + GUEST], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, check=False)
    return got.returncode, got.stdout


def holds(stand):
    return [a["alert"]["context"]["foretaste"] for a in stand.alerts() if "hold" in a["alert"]["context"]["foretaste"]]


def wait_holds(stand, count):
    return until(lambda: len(holds(stand)) >= count and holds(stand), "%d holds in the feed" % count)


def check_feed(stand):
    """Every line that a real run wrote, against the full schema where that is."""
    schema = os.path.join(stand.source, "..", "shared", "data", "eve", "schema.json")
    text = "".join(json.dumps(line) + "\n" for line in stand.feed())
    got = subprocess.run([os.path.join(stand.source, "tests", "log", "check-schema"), schema, "-"], input=text,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    require(got.returncode in (0, 77), "the feed does not fit the schema: %s" % got.stdout)


def innocent_on_a_cold_cache_then_attacks():
    with Stand(sys.argv, top={"clone": {"wall": "300 s"}}) as stand:
        stand.wait_for_guest()
        for name in NAMES:
            code, said = script("innocent", name)
            require(code == 0, "innocent %s was not answered as it should be: %s" % (name, said))
        for hold in wait_holds(stand, len(NAMES)):
            require((hold["verdict"], hold["disposition"]) == ("clean", "released"),
                    "innocent %s: %s, %s" % (hold["input"]["http"]["url"], hold["verdict"], hold["rule"]))
        for name in NAMES:
            before = len(holds(stand))
            code, said = script("attacks", name)
            require(code == 1, "attack %s: exit code %d: %s" % (name, code, said))
            hold = wait_holds(stand, before + 1)[before]
            require((hold["verdict"], hold["rule"], hold["disposition"]) == ("malicious", RULES[name], "dropped"),
                    "attack %s: %s by %s, %s" % (name, hold["verdict"], hold["rule"], hold["disposition"]))
            require(hold.get("quarantine"), "the packets of attack %s were not kept" % name)
            require([t["role"] for t in hold["trials"]] == ["trial", "twin"], "attack %s had no twin" % name)
        check_feed(stand)


def routine_work_is_held_against_nobody():
    """The guest starts programs and writes a file every 30 s of its time; each trial looks at 40 s of it, so there is no
    trial without. The wall-clock budget is generous: a busy machine must not decide this test."""
    count = 200
    with Stand(sys.argv, cmdline="foretaste.ticker=30", top={"clone": {"horizon": "40 s", "wall": "300 s"}}) as stand:
        stand.wait_for_guest()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda n: stand.get("/cgi-bin/health?n=%d;x" % n, timeout=600)[0], range(count)))
        got = wait_holds(stand, count)
        wrong = [(h["hold"], h["verdict"], h["rule"]) for h in got if h["verdict"] != "clean"]
        require(not wrong, "%d of %d innocent holds: %s" % (len(wrong), len(got), wrong[:5]))
        require(answers == [200] * count, "answers: %s" % sorted(set(map(str, answers))))
        with_twin = [h for h in got if len(h["trials"]) == 2]
        require(len(with_twin) > count / 2, "the ticker was seen in %d holds only: this proves little" % len(with_twin))


def clones_that_run_wild_end_at_their_budgets():
    ends = {"dirty": ["budget.memory"], "spin": ["budget.handling", "budget.wall"],
            "fork": ["budget.memory", "budget.handling", "budget.wall"]}
    with Stand(sys.argv, top={"clone": {"handling_instructions": 2000000000, "memory": "64 MiB", "wall": "30 s"}}) as stand:
        stand.wait_for_guest()
        for name, allowed in ends.items():
            before = len(holds(stand))
            status, _ = stand.get("/abuse/%s?x=;y" % name)
            require(status is None, "%s was answered with %s" % (name, status))
            hold = wait_holds(stand, before + 1)[before]
            require(hold["trials"][0]["end"] in allowed, "%s ended by %s" % (name, hold["trials"][0]["end"]))
            require(hold["verdict"] != "clean" and hold["disposition"] == "dropped",
                    "%s: %s, %s" % (name, hold["verdict"], hold["disposition"]))
        require(stand.get("/")[0] == 200, "the live guest does not answer any more")


def correlated(stand, sid):
    return [a for a in stand.alerts() if a["alert"]["signature_id"] == sid]


def a_live_guest_that_scans_is_reported():
    with Stand(sys.argv, cmdline="foretaste.flood=scan") as stand:
        # The guest's router: without it the scan ends at its ARP requests.
        run("ip", "address", "add", "10.0.2.2/%d" % PREFIX, "dev", stand.tag + "c")
        until(lambda: correlated(stand, 3000001), "the outgoing burst in the feed")
        check_feed(stand)


def a_live_guest_that_is_busy_without_cause_is_reported():
    with Stand(sys.argv, cmdline="foretaste.hog=1") as stand:
        # Nobody sends it a packet: that would be a cause.
        until(lambda: correlated(stand, 3000002), "the busy CPU in the feed", patience=240)


if __name__ == "__main__":
    tests = [innocent_on_a_cold_cache_then_attacks, routine_work_is_held_against_nobody,
             clones_that_run_wild_end_at_their_budgets, a_live_guest_that_scans_is_reported,
             a_live_guest_that_is_busy_without_cause_is_reported]
    main(tests)
