#!/usr/bin/python3
"""Modes, switched while the gateway runs; holds that operators decide; inspection switched off: with a real guest."""

import json
import os
import sys
import threading

from stand import AS_SHIPPED, Stand, main, require, until

TWIN = "/cgi-bin/lookup?host=localhost&note=a;b"
# Trials that last minutes, so that operators come first.
LONG = {"horizon": "24 h", "horizon_instructions": 1000000000000, "wall": "10 min"}
ATTACK = "/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/%s"


def ours(stand):
    return [a["alert"]["context"]["foretaste"] for a in stand.alerts()]


def engine(stand, kind):
    """The sentences of the feed's events of this kind."""
    return [line["engine"]["message"] for line in stand.feed()
            if line.get("event_type") == "engine" and line["engine"].get("module") == kind]


def in_background(stand, path):
    answer = []
    thread = threading.Thread(target=lambda: answer.append(stand.get(path, timeout=110)), daemon=True)
    thread.start()

    def result():
        thread.join(120)
        require(answer, "%s never ended" % path)
        return answer[0]
    return result


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


def modes_are_switched_while_it_runs():
    with Stand(sys.argv, service={"mode": "shadow"}, guest=AS_SHIPPED) as stand:
        stand.wait_for_guest()
        require(stand.get(TWIN)[0] == 200, "an innocent request was not answered")
        stand.wait_alerts(1)  # each has a clone at once: shadow cannot wait for one
        require(stand.get(ATTACK % "shadow")[0] == 200, "shadow mode stopped an attack")
        require(stand.touched("shadow"), "the attack had no effect: this test shows nothing")
        stand.wait_alerts(2)
        clean, attack = ours(stand)
        require(clean["disposition"] == attack["disposition"] == "observed", "nothing is held: %s" % stand.verdicts())
        require(clean["would"]["reason"] == "release.clean" and attack["would"]["reason"] == "drop.verdict",
                "what enforce would have done: %s, %s" % (clean["would"], attack["would"]))
        report = stand.cli("shadow", "http")
        require(report["held"] == 2 and report["dropped"] == 1 and report["untried"] == 0, "the report: %s" % report)
        require(report["delay_ns"]["longest"] > 0 and report["clone_ns"] > 0, "it costs time: %s" % report)
        require({r["sid"] for r in report["rules"]}, "by which rules: %s" % report["rules"])
        require(stand.cli("mode", "http", "enforce")["report"]["held"] == 2, "the end of shadow mode is reported")
        require(stand.get(ATTACK % "enforce")[0] is None, "enforce mode let an attack through")
        require(not stand.touched("enforce"), "the live guest was touched")
        require(stand.get(TWIN)[0] == 200, "an innocent request was not answered")
        stand.cli("mode", "http", "observe")
        require(stand.get(ATTACK % "again")[0] == 200 and stand.touched("again"), "observe mode stopped an attack")
        until(lambda: len(engine(stand, "mode")) == 2 and engine(stand, "shadow-report"), "the feed tells it")
        require("service http was switched to enforce by uid 0" in engine(stand, "mode")[0], engine(stand, "mode")[0])


def operators_decide_and_switch_inspection_off():
    with Stand(sys.argv, guest=AS_SHIPPED, service={"hold_time": "10 min"}, top={"clone": LONG}) as stand:
        def hold_of(path):
            """Sends a request that is held: (its hold's number, its answer)."""
            answer = in_background(stand, path)
            return until(lambda: stand.cli("holds"), "a hold is open")[0]["hold"], answer

        stand.wait_for_guest()
        hold, answer = hold_of(TWIN)
        stand.cli("drop", str(hold))
        require(answer()[0] is None, "a dropped request was answered")
        stand.wait_alerts(1)
        require(ours(stand)[-1]["disposition_reason"] == "drop.operator", "%s" % ours(stand)[-1]["disposition_reason"])

        hold, answer = hold_of(ATTACK % "released")
        stand.cli("release", str(hold))
        require(answer()[0] == 200 and stand.touched("released"), "a released request was not answered")
        stand.wait_alerts(2)
        require(ours(stand)[-1]["disposition_reason"] == "release.operator", "%s" % ours(stand)[-1]["disposition_reason"])

        hold, answer = hold_of(ATTACK % "held")
        bypass = stand.cli("bypass", "on")
        require(bypass["all"] and bypass["services"] == ["http"] and bypass["released"] == 1, "%s" % bypass)
        require(answer()[0] == 200 and stand.touched("held"), "what was held goes on")
        require(stand.cli("status")["bypass"]["all"], "status says so")
        require(stand.get(ATTACK % "bypassed")[0] == 200 and stand.touched("bypassed"), "bypass lets everything through")
        require(not stand.cli("holds"), "nothing is held")
        stand.cli("bypass", "off")
        require("bypass" not in stand.cli("status"), "status says so")
        hold, answer = hold_of(ATTACK % "inspected")
        require(not stand.touched("inspected"), "inspection is on again")
        stand.cli("drop", str(hold))
        require(answer()[0] is None and not stand.touched("inspected"), "and what it holds can be dropped")
        reasons = stand.cli("metrics")["reasons"]
        require(reasons.get("pass.bypass") and reasons.get("release.bypass"), "packets are counted: %s" % reasons)
        until(lambda: len(engine(stand, "drop")) == 2, "the feed tells it")
        for kind in ("drop", "release", "bypass-on", "bypass-off"):
            require("by uid 0" in engine(stand, kind)[0], "the feed names who did it: %s" % engine(stand, kind))


def drops(reasons):
    """Packets that did not go on, by reason. A retransmission of what is held already is no loss."""
    return {name: count for name, count in reasons.items()
            if name.split(".")[0] in ("drop", "refuse", "tempfail") and name != "drop.hold-duplicate" and count}


def nothing_is_lost_over_a_hundred_reloads():
    with Stand(sys.argv, guest=AS_SHIPPED) as stand:
        path = os.path.join(stand.directory, "foretaste.yaml")
        tiny = os.path.join(stand.directory, "tiny.yaml")  # compiles soon, so that there is much of the other work in between
        with open(tiny, "w") as f:
            json.dump({"patterns": [{"sid": 1000900, "name": "semicolon", "text": "a semicolon", "severity": 3, "pattern": ";"}]}, f)
        service = stand.config["services"]["http"]

        def write(**changes):
            service.update(changes)
            with open(path, "w") as f:
                json.dump(stand.config, f)

        stand.wait_for_guest()
        done, answers, holds = threading.Event(), [], []

        def requests(path, into):
            while not done.is_set():
                into.append(stand.get(path, timeout=110)[0])

        write(rules=[tiny])
        stand.cli("reload")
        clients = [threading.Thread(target=requests, args=("/", answers)), threading.Thread(target=requests, args=("/", answers)),
                   threading.Thread(target=requests, args=(TWIN, holds))]
        for client in clients:
            client.start()
        try:
            until(lambda: holds and len(answers) > 10, "there is traffic")
            for i in range(100):
                write(gather="%d ms" % (2 + i % 2))
                require(stand.cli("reload") == {"reloaded": True}, "reload %d" % i)
                if i % 20 == 0:
                    write(gather="two")
                    require("foretaste.yaml:" in stand.refusal("reload"), "a bad file is named by its line")
            # As many requests, and holds of the new rules, as it takes to see that it still works.
            served, tried = len(answers), len(holds)
            until(lambda: len(answers) > served + 5 and len(holds) > tried + 1, "there still is traffic")
        finally:
            done.set()
            for client in clients:
                client.join()
        require(set(answers) == {200} and set(holds) == {200}, "every request is answered: %s, %s" % (set(answers), set(holds)))
        require(not drops(stand.cli("metrics")["reasons"]), "no packet is lost: %s" % drops(stand.cli("metrics")["reasons"]))
        status = stand.cli("status")
        require([p["restarts"] for p in status["processes"].values()] == [0] * len(status["processes"]), "nothing restarted")
        until(lambda: len(engine(stand, "reload")) == 101, "the feed tells each")
        require(len(engine(stand, "reload-failed")) == 5 and "expected" in engine(stand, "reload-failed")[0], "and each failure")
        require(stand.get(ATTACK % "reloaded")[0] is None and not stand.touched("reloaded"), "the new rules hold an attack")

        feed = os.path.join(stand.directory, "state", "feed.json")
        os.rename(feed, feed + ".1")
        stand.cli("reopen-logs")
        require(stand.get(TWIN)[0] == 200, "an innocent request")
        stand.wait_alerts(1)
        with open(feed) as f:
            require(any(json.loads(line)["event_type"] == "alert" for line in f), "the new file goes on")


if __name__ == "__main__":
    main([an_observed_service_is_never_held_up, modes_are_switched_while_it_runs, operators_decide_and_switch_inspection_off,
          nothing_is_lost_over_a_hundred_reloads])
