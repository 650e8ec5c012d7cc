#!/usr/bin/python3
"""What the verdicts say on a real guest: each attack is judged by the rule that names what it did, every line of the feed
fits the schema, and the two correlation rules see a live guest that misbehaves. Arguments: BUILD-DIRECTORY
[IMAGE-DIRECTORY]. That attacks are stopped and innocent input is clean: test_attacks.py."""

import json
import os
import subprocess
import sys

from stand import AS_SHIPPED, GUEST, PREFIX, Stand, main, require, run, until

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


def each_attack_is_judged_by_the_rule_that_names_it():
    with Stand(sys.argv, top={"clone": {"wall": "300 s"}}) as stand:
        stand.wait_for_guest()
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


def correlated(stand, sid):
    return [a for a in stand.alerts() if a["alert"]["signature_id"] == sid]


def a_live_guest_that_scans_is_reported():
    with Stand(sys.argv, cmdline="foretaste.flood=scan") as stand:
        # The guest's router: without it the scan ends at its ARP requests.
        run("ip", "address", "add", "10.0.2.2/%d" % PREFIX, "dev", stand.tag + "c")
        until(lambda: correlated(stand, 3000001), "the outgoing burst in the feed")
        check_feed(stand)


def a_live_guest_that_is_busy_without_cause_is_reported():
    with Stand(sys.argv, guest=AS_SHIPPED, cmdline="foretaste.hog=1") as stand:
        # Nobody sends it a packet: that would be a cause.
        until(lambda: correlated(stand, 3000002), "the busy CPU in the feed", patience=240)


if __name__ == "__main__":
    main([each_attack_is_judged_by_the_rule_that_names_it, a_live_guest_that_scans_is_reported,
          a_live_guest_that_is_busy_without_cause_is_reported])
