#!/usr/bin/python3
"""The self-test with a real guest: it passes beside traffic and leaves no trace of itself, and a gateway that is active but
does not inspect any more says so, however it came to that."""

import http.client
import json
import os
import signal
import socket
import sys

from stand import Stand, main, require, until

RESERVED = "10.0.2.200"  # of the guest's network, and nobody has it
RESERVED6, GUEST6 = "fd00:2::200", "fd00:2::15"
ATTACK = "GET /cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/canary HTTP/1.0\r\n\r\n"
PATIENCE = 120
ETH_P_ALL = 3
UDP_PORT = 5353


class Tested(Stand):
    def __init__(self, service=None, cmdline="", guest={}, **top):
        super().__init__(sys.argv, guest=dict(canary=RESERVED, **guest), service=service, cmdline=cmdline,
                         top=dict(canary={"every": "1 s"}, **top))
        self.endpoint = os.path.join(self.directory, "metrics.sock")
        self.config["metrics"] = {"listen": self.endpoint}

    def ask(self, path):
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(self.endpoint)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def ready(self):
        status, body = self.ask("/readyz")
        return status == 200, json.loads(body).get("problems", [])

    def metric(self, name):
        return sum(float(line.rsplit(" ", 1)[1]) for line in self.ask("/metrics")[1].splitlines()
                   if line.startswith(name + "{") or line.startswith(name + " "))

    def passed(self, service="http"):
        return self.cli("status")["canary"]["services"][service]["results"]["ok"]

    def events(self, kind):
        return [line for line in self.feed() if line.get("event_type") == "engine" and kind in json.dumps(line)]

    def wait_ready(self):
        self.wait_for_guest()
        until(lambda: self.ready()[0], "it is ready", PATIENCE)


def it_passes_and_leaves_no_trace():
    with Tested(service={"canary_attack": ATTACK}) as stand:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        wire.setblocking(False)
        stand.wait_ready()
        before, alerts = stand.passed(), len(stand.alerts())
        until(lambda: stand.passed() >= before + 3, "it passes again and again", PATIENCE)
        require(stand.get("/")[0] == 200, "no service beside it")
        served = stand.requests()
        require("GET / " in served and RESERVED not in served, "the live server got input of the self-test: %s" % served)
        require(not stand.touched("canary"), "the live guest was touched by the self-test's attack")
        require(len(stand.alerts()) == alerts and not stand.cli("holds"), "it is in the feed, or among the holds")
        require(not stand.events("self-test"), "it is told though nothing is wrong")
        seen = 0
        while True:
            try:
                frame = wire.recv(2048)
            except BlockingIOError:
                break
            seen += 1
            require(socket.inet_aton(RESERVED) not in frame, "a frame with the reserved address on the wire: %s" % frame.hex())
        require(seen > 10, "nothing was seen on the wire")


def a_udp_service_is_tested_as_well():
    stand = Tested(service={"canary": "off"}, cmdline="foretaste.udp=%d" % UDP_PORT, clone={"wall": "50 s"})
    stand.config["services"]["udp"] = {"guest": "web", "protocol": "udp", "port": UDP_PORT, "mode": "enforce", "screen": "all",
                                       "rules": [], "canary_attack": "run:touch /var/www/touched/canary\n",
                                       "normal": stand.config["services"]["http"]["normal"]}
    with stand:
        stand.wait_ready()
        before = stand.passed("udp")
        until(lambda: stand.passed("udp") >= before + 2, "it passes again and again", PATIENCE)
        held = [a for a in stand.alerts() if "hold" in a["alert"]["context"]["foretaste"]]
        require(not held and not stand.touched("canary"), "the live guest was touched, or the feed has it: %s" % held)


def over_ipv6_as_well():
    """A guest that passes over IPv4 and is not reached over IPv6 does not pass; one that has both does, TCP and UDP."""
    stand = Tested(cmdline="foretaste.udp=%d" % UDP_PORT, guest={"address6": GUEST6, "canary6": RESERVED6}, clone={"wall": "50 s"},
                   service={"canary_attack": ATTACK})
    stand.config["services"]["udp"] = {"guest": "web", "protocol": "udp", "port": UDP_PORT, "mode": "enforce", "screen": "all",
                                       "rules": [], "normal": stand.config["services"]["http"]["normal"]}
    with stand:
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        wire.setblocking(False)
        stand.wait_ready()
        before = stand.passed(), stand.passed("udp")
        until(lambda: stand.passed() >= before[0] + 2 and stand.passed("udp") >= before[1] + 2, "both pass again and again", PATIENCE)
        require(RESERVED6 not in stand.requests() and not stand.touched("canary"), "the live guest was touched by the self-test")
        require(not stand.events("self-test"), "it is told though nothing is wrong")
        seen = 0
        while True:
            try:
                frame = wire.recv(2048)
            except BlockingIOError:
                break
            seen += 1
            require(socket.inet_pton(socket.AF_INET6, RESERVED6) not in frame, "the reserved address on the wire: %s" % frame.hex())
        require(seen > 10, "nothing was seen on the wire")


def the_wrong_address_does_not_pass():
    """What answers over IPv4 alone is not what was configured."""
    with Tested(guest={"address6": "fd00:2::16", "canary6": RESERVED6}) as stand:
        stand.wait_for_guest()
        until(lambda: any("over IPv6: the guest does not answer it" in p for p in stand.ready()[1]), "it is noticed", PATIENCE)


def broken(stand, stop, go_on):
    """Breaks the inspection of a gateway that is ready, and mends it again."""
    stand.wait_ready()
    stop()
    ready, problems = until(lambda: (lambda r: r if not r[0] else None)(stand.ready()), "it is not ready any more", PATIENCE)
    until(lambda: any("self-test of service http" in p for p in stand.ready()[1]), "it says why", PATIENCE)
    until(lambda: stand.events("self-test of service http fails"), "the feed says so", PATIENCE)
    go_on()
    until(lambda: stand.ready()[0], "it is ready again", PATIENCE)
    until(lambda: stand.events("self-test of service http passes again"), "the feed says so", PATIENCE)
    require(stand.get("/")[0] == 200, "no service")


def a_vmm_that_stands_still():
    with Tested() as stand:
        stand.wait_for_guest()
        live = stand.processes("foretaste-vmm")[0][0]
        broken(stand, lambda: os.kill(live, signal.SIGSTOP), lambda: os.kill(live, signal.SIGCONT))


def a_guest_that_hangs_is_started_anew_alone():
    with Tested(clone={"wall": "2 s"}) as stand:
        stand.wait_ready()
        others = stand.processes("foretaste-dataplane") + stand.processes("foretaste-ledger") + stand.processes("foretaste-metrics")
        live = stand.processes("foretaste-vmm")[0][0]
        os.kill(live, signal.SIGSTOP)
        until(lambda: stand.events("answers no self-test any more: it is started anew"), "it is seen", PATIENCE)
        stand.wait_ready()
        require(live not in dict(stand.processes("foretaste-vmm")), "it is still there")
        require(stand.processes("foretaste-dataplane") + stand.processes("foretaste-ledger") + stand.processes("foretaste-metrics") == others,
                "others were started anew, too")
        require(stand.get("/")[0] == 200, "no service")


def a_dataplane_that_stands_still():
    with Tested(clone={"wall": "2 s"}) as stand:
        stand.wait_for_guest()
        pid = stand.processes("foretaste-dataplane")[0][0]
        broken(stand, lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT))


def clones_that_can_do_nothing():
    """Everything is up, everything answers, and with these policies next to nothing would ever be caught."""
    with Tested(service={"on_exception": "release", "on_suspicious": "release"}, clone={"memory": "1 MiB"}) as stand:
        stand.wait_for_guest()
        until(lambda: any("its harmless input was judged" in p for p in stand.ready()[1]), "it is noticed", PATIENCE)
        require(stand.ask("/healthz")[0] == 200, "its processes are well")
        require(stand.get("/cgi-bin/lookup?host=localhost&note=a;b")[0] == 200, "input is released untried")
        stand.wait_alerts(1)
        require([verdict for verdict, _ in stand.verdicts()] == ["inconclusive"], "what is cut short proves nothing: %s" % stand.alerts())
        require(stand.metric("foretaste_ready") == 0 and stand.metric("foretaste_canary_ok") == 0, "the metrics say that all is well")


if __name__ == "__main__":
    main([it_passes_and_leaves_no_trace, a_udp_service_is_tested_as_well, over_ipv6_as_well,
          the_wrong_address_does_not_pass, a_vmm_that_stands_still, a_guest_that_hangs_is_started_anew_alone,
          a_dataplane_that_stands_still, clones_that_can_do_nothing])
