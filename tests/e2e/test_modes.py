#!/usr/bin/python3
"""A service that is only observed: nothing is held up, and the feed says all the same what clones made of it."""

import sys

from stand import Stand, main, require

TWIN = "/cgi-bin/lookup?host=localhost&note=a;b"
ATTACK = "/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/%s"


def an_observed_service_is_never_held_up():
    with Stand(sys.argv, service={"mode": "observe"}) as stand:
        stand.wait_for_guest()
        require(stand.get(TWIN)[0] == 200, "an innocent request was not answered")
        require(stand.get(ATTACK % "observed")[0] == 200, "observe mode stopped an attack")
        require(stand.touched("observed"), "the attack had no effect: this test shows nothing")
        stand.wait_alerts(2)
        verdicts = stand.verdicts()
        require(verdicts[0] == ("clean", "observed"), "the innocent request: %s" % (verdicts[0],))
        require(verdicts[1][0] in ("malicious", "suspicious") and verdicts[1][1] == "observed",
                "the attack: %s" % (verdicts[1],))


if __name__ == "__main__":
    main([an_observed_service_is_never_held_up])
