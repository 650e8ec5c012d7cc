#!/usr/bin/python3
"""Two real guests in one VLAN of one uplink: web has a protected service, near has none and does what an attacker tells it.
Near reaches web through the same inspection as anybody on the wire; stopping or losing one leaves the other alone."""

import fcntl
import http.client
import os
import select
import signal
import socket
import struct
import sys
import urllib.parse

from stand import AS_SHIPPED, CLIENT, GUEST, PREFIX, Stand, end_with_parent, main, require, run, skip, until

NEAR = "10.0.2.16"
VLAN = 7

# What near is made to run: one request to web, and what came back.
ASK = r"""perl -MIO::Socket::INET -e '
my $s = IO::Socket::INET->new(PeerAddr => "%s:80", Timeout => 30) or do { print "no connection: $!\n"; exit };
print $s "GET %s HTTP/1.0\r\nHost: guest\r\n\r\n";
my $answer = join "", <$s>;
print length $answer ? $answer : "cut: $!\n"'"""


SOL_PACKET, PACKET_AUXDATA, PACKET_OUTGOING, ETH_P_ALL = 263, 8, 4, 3
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 2, 0x1000


def open_tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def relay(tap, wire):
    """A VLAN interface, for kernels that have none: what goes into the tap has no tag, what is on the wire has."""
    while True:
        for ready in select.select([tap, wire], [], [])[0]:
            if ready == tap:
                frame = os.read(tap, 2048)
                wire.send(frame[:12] + struct.pack("!HH", 0x8100, VLAN) + frame[12:])
                continue
            frame, extra, _, address = wire.recvmsg(2048, 64)
            # The kernel takes the tag out and tells it beside the frame: struct tpacket_auxdata.
            tags = [struct.unpack("IIIHHHH", data[:20])[5] for level, kind, data in extra if kind == PACKET_AUXDATA]
            if address[2] != PACKET_OUTGOING and tags and tags[0] & 0xfff == VLAN:
                os.write(tap, frame)


class Neighbours(Stand):
    def __init__(self, argv):
        super().__init__(argv, guest=dict(AS_SHIPPED, vlan=VLAN))
        web = self.config["guests"]["web"]
        self.config["guests"]["near"] = dict(web, mac="52:54:00:00:02:10", address=NEAR,
                                             cmdline=web["cmdline"] + " foretaste.address=" + NEAR)

    def make_net(self):
        super().make_net()
        client = self.netns[0]
        run("ip", "address", "flush", "dev", client)
        if not os.path.exists("/dev/net/tun"):
            skip("no /dev/net/tun")
        tap, wire = open_tap("tagged"), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        wire.bind((client, 0))
        wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        run("ip", "address", "add", "%s/%d" % (CLIENT, PREFIX), "dev", "tagged")
        run("ip", "link", "set", "tagged", "up")
        parent = os.getpid()
        self.relay = os.fork()
        if not self.relay:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            end_with_parent()
            if os.getppid() == parent:
                relay(tap, wire)
            os._exit(1)
        os.close(tap)
        wire.close()

    def __exit__(self, *why):
        try:
            super().__exit__(*why)
        finally:
            if getattr(self, "relay", None):
                os.kill(self.relay, signal.SIGKILL)
                os.waitpid(self.relay, 0)
                self.relay = None

    def near(self, path):
        c = http.client.HTTPConnection(NEAR, 80, timeout=90)
        try:
            c.request("GET", path)
            return c.getresponse().read().decode("latin-1")
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            c.close()

    def through_near(self, path):
        """Near is broken into, which nobody prevents, and made to ask web."""
        return self.near("/cgi-bin/lookup?host=" + urllib.parse.quote("localhost;" + ASK % (GUEST, path)))

    def guests(self):
        return self.cli("guests")


def a_guest_is_protected_from_the_guest_beside_it():
    with Neighbours(sys.argv) as stand:
        stand.wait_for_guest()
        until(lambda: "<html" in stand.near("/").lower(), "near answers")

        require(" 200 OK" in stand.through_near("/"), "near reaches web: " + stand.through_near("/")[-300:])
        require("fish;chips" in stand.through_near("/cgi-bin/lookup?host=localhost&note=fish;chips"), "what is innocent is answered")
        alert = stand.wait_alerts(1)[-1]
        require(alert["src_ip"] == NEAR and alert["dest_ip"] == GUEST, "who sent it: %s" % alert)
        require(stand.verdicts() == [("clean", "released")], "a trial came first: %s" % stand.verdicts())

        mark = "near-%d" % os.getpid()
        answer = stand.through_near("/cgi-bin/lookup?host=localhost;touch+/var/www/touched/" + mark)
        require("200 OK" not in answer, "the attack was answered: " + answer[-300:])
        stand.wait_alerts(2)
        require(stand.verdicts()[-1] == ("malicious", "dropped"), "the attack is known: %s" % stand.verdicts())
        require(not stand.touched(mark), "the attack had its effect")
        require(" 200 OK" in stand.through_near("/"), "near's other connections go on")

        packets = stand.cli("metrics")["guests"]
        require(packets["web"]["reasons"]["drop.verdict"] >= 1 and "drop.verdict" not in packets["near"]["reasons"],
                "counted where it belongs: %s" % packets)

        # One is stopped, started, and dies; the other's connection does not notice.
        web = http.client.HTTPConnection(GUEST, 80, timeout=90)
        require(stand.get("/", connection=web)[0] == 200, "a connection to web")
        pid = stand.guests()["web"]["pid"]
        require(stand.cli("guest", "stop", "near")["state"] == "stopped", "near stops")
        require(stand.get("/", connection=web)[0] == 200, "web goes on")
        require(stand.cli("guest", "start", "near")["state"] in ("booting", "up"), "near starts")
        until(lambda: "<html" in stand.near("/").lower(), "near answers again")
        require(stand.get("/", connection=web)[0] == 200, "web goes on")
        os.kill(stand.guests()["near"]["pid"], signal.SIGKILL)
        until(lambda: stand.guests()["near"]["restarts"] == 1 and "<html" in stand.near("/").lower(), "near is back")
        require(stand.get("/", connection=web)[0] == 200, "web goes on")
        require(stand.guests()["web"]["pid"] == pid, "web is the same process")
        web.close()
        told = [line["engine"]["message"] for line in stand.feed() if line["event_type"] == "engine"]
        require(any("guest near is stopped by uid 0" in text for text in told), "the feed says who did it: %s" % told)

        # Without the tag web is not to be had.
        before = stand.cli("metrics")["reasons"].get("drop.not-ours", 0)
        client = stand.netns[0]
        run("ip", "address", "flush", "dev", "tagged")
        run("ip", "address", "add", "%s/%d" % (CLIENT, PREFIX), "dev", client)
        run("ip", "neighbour", "add", GUEST, "lladdr", stand.config["guests"]["web"]["mac"], "dev", client)
        require(stand.get("/", timeout=2)[0] is None, "web answers outside of its VLAN")
        require(stand.cli("metrics")["reasons"].get("drop.not-ours", 0) > before, "counted as not ours")


if __name__ == "__main__":
    main([a_guest_is_protected_from_the_guest_beside_it])
