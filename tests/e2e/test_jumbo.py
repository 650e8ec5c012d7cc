#!/usr/bin/python3
"""Jumbo frames: a cable and a guest of 9000 bytes, and requests that come in one frame each. They are held, tried, released and
dropped like small ones, in the frame that they came in; what the guest sends is as large."""

import socket
import struct
import sys

from stand import AS_SHIPPED, GUEST, Stand, main, require, run

MTU = 9000
UDP_PORT = 5353
PADDING = "".join("X-Padding-%d: %s\r\n" % (n, "p" * 1900) for n in range(4))  # below what a pattern calls long
PATH = "/cgi-bin/lookup?host=localhost%snote"
ETH_P_ALL, OUTGOING = 3, 4


class Jumbo(Stand):
    def make_net(self):
        super().make_net()
        for name in self.netns:
            run("ip", "-n", name, "link", "set", name, "mtu", str(MTU))
        # The client's kernel cuts its segments itself: what is on this cable is what a wire would carry.
        run("ethtool", "-K", self.netns[0], "tso", "off", "gso", "off", "gro", "off")


stand = None


class Wire:
    """The lengths of the frames that the client sends and gets."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.bind((stand.tag + "c", 0))
        self.socket.setblocking(False)

    def largest(self):
        sent = received = 0
        while True:
            try:
                frame, address = self.socket.recvfrom(65535)
            except BlockingIOError:
                self.socket.close()
                return sent, received
            if frame[12:14] == b"\x08\x00":
                length = struct.unpack("!H", frame[16:18])[0]
                sent, received = (max(sent, length), received) if address[2] == OUTGOING else (sent, max(received, length))


def ask(path):
    """One request in one write; the answer, or None when the connection was reset."""
    with socket.create_connection((GUEST, 80), timeout=60) as s:
        s.sendall(("GET %s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n%s\r\n" % (path, PADDING)).encode())
        answer = b""
        try:
            while True:
                more = s.recv(65536)
                if not more:
                    return answer.decode("latin-1")
                answer += more
        except ConnectionResetError:
            return None


def record(alert):
    return stand.cli("show", str(alert["alert"]["context"]["foretaste"]["hold"]))


def held_and_released_in_one_frame():
    before, wire = len(stand.alerts()), Wire()
    answer = ask(PATH % "&x=a;b")
    require(answer and " 200 " in answer.split("\r\n")[0], "the answer is %r" % answer)
    alert = stand.wait_alerts(before + 1)[before]
    hold = record(alert)
    require(hold["verdict"] == "clean" and hold["disposition"] == "released", "%s" % hold)
    require(hold["input"]["frames"] == 1 and hold["input"]["bytes"] > 7600, "it was not held in one frame: %s" % hold["input"])
    require(hold["trials"][0]["taken_bytes"] == hold["trials"][0]["held_bytes"] == hold["input"]["bytes"], "%s" % hold["trials"])
    require(hold["frames_done"] == 1, "it was released in %s frames" % hold["frames_done"])
    require(7600 < wire.largest()[0] <= MTU, "no jumbo frame was on the wire")


def an_attack_in_one_frame_is_dropped():
    before = len(stand.alerts())
    require(ask("/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/jumbo") is None, "the attack was answered")
    hold = record(stand.wait_alerts(before + 1)[before])
    require(hold["disposition"] == "dropped" and hold["input"]["frames"] == 1, "%s" % hold)
    require(not stand.touched("jumbo"), "the live guest was touched")


def a_datagram_in_one_frame():
    before = len(stand.alerts())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(60)
        data = b"hello".ljust(8900, b".")
        s.sendto(data, (GUEST, UDP_PORT))
        require(s.recv(1000).decode() == "got %d %d" % (len(data), sum(data)), "another answer")
    hold = record(stand.wait_alerts(before + 1)[before])
    require(hold["disposition"] == "released" and hold["input"]["frames"] == 1 and hold["input"]["bytes"] == 8900, "%s" % hold)


def what_the_guest_sends_is_as_large():
    """The list of requests grows with what is asked for."""
    while len(ask("/requests")) < 2 * MTU:
        require(ask("/" + "long/" * 300), "no answer")
    wire = Wire()
    ask("/requests")
    require(MTU - 100 < wire.largest()[1] <= MTU, "no jumbo frame came back")


def a_cable_of_9000_bytes():
    global stand
    # How long a trial takes is not what this is about.
    stand = Jumbo(sys.argv, guest=dict(AS_SHIPPED, mtu=MTU), service={"hold_time": "110 s"}, top={"clone": {"wall": "50 s"}},
                  cmdline="foretaste.udp=%d" % UDP_PORT)
    normal = stand.config["services"]["http"]["normal"]
    stand.config["services"]["udp"] = {"guest": "web", "protocol": "udp", "port": UDP_PORT, "mode": "enforce", "screen": "all",
                                       "rules": [], "on_exception": "drop", "hold_time": "110 s", "normal": normal}
    with stand:
        stand.wait_for_guest()
        for test in (held_and_released_in_one_frame, an_attack_in_one_frame_is_dropped, a_datagram_in_one_frame,
                     what_the_guest_sends_is_as_large):
            test()
            print("ok   - %s" % test.__name__.replace("_", " "), flush=True)


if __name__ == "__main__":
    main([a_cable_of_9000_bytes])
