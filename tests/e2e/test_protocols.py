#!/usr/bin/python3
"""The planted command injection over everything that a service can be reached by: IPv6 with and without extension headers,
one and two VLAN tags, fragments, UDP. Whatever the way: innocent input is answered, the live guest never takes an attack,
and both ends of a connection learn of its end."""

import http.client
import socket
import struct
import sys
import time

from rawtcp import RawTcp, option_header
from stand import GUEST, Stand, main, require, run, until

ATTACK = "/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/%s"
TWIN = "/cgi-bin/lookup?host=localhost&note=a;b"
GUEST6 = "fd00:2::15"
UDP_PORT = 5353
EVERY = {"guest": "web", "protocol": "udp", "port": UDP_PORT, "mode": "enforce", "screen": "all", "rules": [],
         "on_exception": "drop"}

stand = None
ports = iter(range(22000, 30000))


def request(path):
    return ("GET %s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n" % path).encode()


def reason(name):
    counters = stand.cli("metrics")
    return counters.get("reasons", counters).get(name, 0)


def add_client_address(device, *addresses):
    run("sysctl", "-qw", "net.ipv6.conf.%s.disable_ipv6=0" % device)
    for address in addresses:
        run("ip", "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))


def innocent_and_attack(host, name, **kind):
    """Both through a client of its own making, of that kind."""
    before = len(stand.alerts())
    c = RawTcp(stand.tag + "c", kind.pop("source"), host, sport=next(ports), **kind)
    require(c.connect(), "no connection")
    require(c.send(request(TWIN)), "the innocent request was not acknowledged")
    require(c.pump(lambda: c.finished or c.reset, 60) and b"a;b" in c.received, "the answer is %r" % c.received[-200:])
    c.close()
    c = RawTcp(stand.tag + "c", ("fd00:%d::78" if ":" in host else "10.0.%d.78") % (5 if c.tags else 2), host,
               sport=next(ports), **kind)
    require(c.connect(), "no connection")
    c.send(request(ATTACK % name))
    require(c.pump(lambda: c.reset, 60), "the attack's connection was not reset")
    require(c.resets[0][0] == c.expected, "the reset has another number than the client expects")
    c.close()
    verdicts = [a["alert"]["context"]["foretaste"]["verdict"] for a in stand.wait_alerts(before + 2)[before:]]
    require(verdicts[0] == "clean" and verdicts[-1] in ("malicious", "suspicious"), "verdicts: %s" % verdicts)
    require(not stand.touched(name), "the live guest was touched")


def a_kernels_client_over_ipv6():
    before = len(stand.alerts())
    c = http.client.HTTPConnection(GUEST6, 80, timeout=60)
    for _ in range(2):
        status, body = stand.get(TWIN, connection=c)
        require(status == 200 and "a;b" in body, "the innocent request was answered with %s: %s" % (status, body))
    require(stand.get(ATTACK % "six", connection=c)[0] is None, "the attack was answered")
    c.close()
    alerts = stand.wait_alerts(before + 3)[before:]
    require([a["alert"]["context"]["foretaste"]["verdict"] for a in alerts][:2] == ["clean", "clean"], "not clean")
    require(alerts[-1]["src_ip"] == "fd00:2::9" and alerts[-1]["dest_ip"] == GUEST6, "addresses: %s" % alerts[-1])
    require(alerts[-1]["ip_v"] == 6 and alerts[-1]["community_id"].startswith("1:"), "no community id")
    require(not stand.touched("six"), "the live guest was touched")


def extension_headers():
    def chain(following):
        return 0, option_header(60) + option_header(43) + struct.pack("!BBBBI", following, 0, 253, 0, 0)
    innocent_and_attack(GUEST6, "chain", source="fd00:2::77", extensions=chain)
    innocent_and_attack(GUEST6, "atomic", source="fd00:2::77",
                        extensions=lambda following: (44, struct.pack("!BBHI", following, 0, 0, 77)))


def headers_that_hide_the_port():
    before = reason("refuse.extension")
    c = RawTcp(stand.tag + "c", "fd00:2::79", GUEST6, sport=next(ports),
               extensions=lambda following: (43, struct.pack("!BBBBI", following, 0, 4, 1, 0)))
    require(c.find_peer(), "the guest was not found")
    c.segment(b"", 2, c.start, 0)
    until(lambda: reason("refuse.extension") > before, "the segment is refused")
    c.close()


def fragments():
    for host, source in ((GUEST, "10.0.2.77"), (GUEST6, "fd00:2::77")):
        for size in (24, 64):
            innocent_and_attack(host, "cut%d%d" % (len(source), size), source=source, fragment=size)


def overlapping_fragments():
    """The attack as fragments that a stack might put together in two ways."""
    for host, source in ((GUEST, "10.0.2.77"), (GUEST6, "fd00:2::77")):
        before = reason("drop.fragment-overlap")
        c = RawTcp(stand.tag + "c", source, host, sport=next(ports))
        require(c.connect(), "no connection")
        attack = request(ATTACK % "overlapped")
        harmless = attack.replace(b";", b"/").replace(b"$", b"/")
        evil, good = (c.packet(24, c.sequence, c.expected, text) for text in (attack, harmless))
        # Between veths the kernel puts IPv4 fragments together before the gateway sees them, and gives up what overlaps.
        for order in ((0, 1), (1, 0)):
            c.identity += 1
            c.piece(6, good, 0, 56)
            pieces = [lambda: c.piece(6, good, 56, 120), lambda: c.piece(6, evil, 48, 120)]
            for i in order:
                pieces[i]()
            c.piece(6, evil, 120, len(evil))
        if ":" in host:
            until(lambda: reason("drop.fragment-overlap") >= before + 8, "both datagrams are given up")
        # The connection is as it was: what was given up was never part of it.
        require(c.send(request("/")) and c.pump(lambda: c.finished, 60) and b" 200 " in c.received, "no answer afterwards")
        c.close()
        require(not stand.touched("overlapped"), "the live guest was touched")


def ask(address, text, size=0, patience=60):
    """One datagram to the guest's UDP service; its answer, or None."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(patience)
        data = text.encode().ljust(size, b".")
        s.sendto(data, (address, UDP_PORT))
        try:
            return s.recv(1000).decode(), "got %d %d" % (len(data), sum(data) & 0xffffffff)
        except socket.timeout:
            return None, "an answer"


def udp_services_are_held():
    """Small and large datagrams: the kernel cuts the large ones, the guest gets them in pieces of our making."""
    for address in (GUEST, GUEST6):
        for size in (0, 1400, 2500, 8000):
            before = len(stand.alerts())
            answer, expected = ask(address, "hello", size)
            require(answer == expected, "%d bytes to %s: %s" % (size, address, answer))
            alerts = stand.wait_alerts(before + 1)[before:]
            require(alerts[0]["alert"]["context"]["foretaste"]["disposition"] == "released", "it was not tried")
        for size in (0, 4000):
            before = len(stand.alerts())
            name = "udp%d%d" % (len(address), size)
            require(ask(address, "run:touch /var/www/touched/%s\n" % name, size, 10)[0] is None, "the attack was answered")
            alerts = stand.wait_alerts(before + 1)[before:]
            require(alerts[-1]["alert"]["context"]["foretaste"]["disposition"] == "dropped", "the attack was not dropped")
            require(not stand.touched(name), "the live guest was touched")


def run_vlan(tags):
    global stand
    stand = Stand(sys.argv, guest={"vlan": "trunk"}, cmdline="foretaste.vlan=" + ".".join(map(str, tags)))
    with stand:
        add_client_address(stand.tag + "c")
        stand.wait_for_guest()
        for host, source in (("10.0.5.15", "10.0.5.77"), ("fd00:5::15", "fd00:5::77")):
            name = "tags%d%d" % (len(tags), len(host))
            innocent_and_attack(host, name, source=source, tags=tags)
            innocent_and_attack(host, name + "cut", source=source, tags=tags, fragment=64)
        vlans = [alert.get("vlan") for alert in stand.alerts()]
        require(vlans == [list(tags)] * len(vlans), "the feed's VLANs: %s" % vlans)


def behind_one_vlan_tag():
    run_vlan((5,))


def behind_two_vlan_tags():
    run_vlan((7, 5))


def over_ipv6_in_fragments_and_udp():
    global stand
    stand = Stand(sys.argv, guest={"address6": GUEST6}, cmdline="foretaste.udp=%d" % UDP_PORT)
    stand.config["services"]["udp"] = dict(EVERY, normal=stand.config["services"]["http"]["normal"])
    with stand:
        add_client_address(stand.tag + "c", "fd00:2::9/64")
        stand.wait_for_guest()
        for test in (a_kernels_client_over_ipv6, extension_headers, headers_that_hide_the_port, fragments,
                     overlapping_fragments, udp_services_are_held):
            test()
            print("ok   - %s" % test.__name__.replace("_", " "), flush=True)


if __name__ == "__main__":
    main([over_ipv6_in_fragments_and_udp, behind_one_vlan_tag, behind_two_vlan_tags])
