#!/usr/bin/python3
"""A Linux client's TCP with all its options (timestamps, window scaling, SACK) through holds and their release, over a wire
that loses packets in both directions. The kernel's own netem is not everywhere, so the wire is a process of this test
between two virtual cables; what it loses is fixed: every Nth segment that it sees for the first time."""

import ctypes
import http.client
import os
import select
import signal
import socket
import struct
import sys
import time

from stand import CLIENT, CLONE_NEWNET, GUEST, PREFIX, Stand, main, require, run

OUTGOING = 4
LOSE_DATA, LOSE_ACK = 9, 11


def wire(ends, report):
    """Forwards between the two interfaces for ever; after each loss writes (towards the guest, towards the client)."""
    sockets = []
    for name in ends:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind((name, 0))
        sockets.append(s)
    seen, counts, lost = [set(), set()], [[0, 0], [0, 0]], [0, 0]
    while True:
        for s in select.select(sockets, [], [])[0]:
            frame, address = s.recvfrom(65535)
            if address[2] == OUTGOING:
                continue
            at = sockets.index(s)
            if frame[12:14] == b"\x08\x00" and frame[23] == 6:
                length, header = struct.unpack("!H", frame[16:18])[0], 20 + (frame[46] >> 4) * 4
                name = frame[26:46] if length > header else frame[26:42] + frame[42:46]
                kind = 0 if length > header else 1
                if name not in seen[at] and not frame[47] & 7:
                    seen[at].add(name)
                    counts[at][kind] += 1
                    if counts[at][kind] % (LOSE_ACK if kind else LOSE_DATA) == 0:
                        lost[at] += 1
                        os.pwrite(report, struct.pack("!II", *lost), 0)
                        continue
            sockets[1 - at].send(frame)


class LossyStand(Stand):
    def make_net(self):
        self.netns = [self.tag + "c", self.tag + "g", self.tag + "w"]
        for name in self.netns:
            run("ip", "netns", "add", name)
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", check=False)
            run("ip", "-n", name, "link", "set", "lo", "up")
        for end in "cg":
            run("ip", "link", "add", self.tag + end, "netns", self.tag + end, "type", "veth",
                "peer", "name", self.tag + "w" + end, "netns", self.netns[2])
            run("ip", "-n", self.tag + end, "link", "set", self.tag + end, "up")
            run("ip", "-n", self.netns[2], "link", "set", self.tag + "w" + end, "up")
        # What the wire sees are packets, not what hardware would make packets of.
        run("ip", "netns", "exec", self.netns[0], "ethtool", "-K", self.tag + "c", "tso", "off", "gso", "off", "gro", "off")
        run("ip", "-n", self.netns[0], "address", "add", "%s/%d" % (CLIENT, PREFIX), "dev", self.netns[0])
        self.lost_file = os.memfd_create("lost")
        os.pwrite(self.lost_file, bytes(8), 0)
        self.wire = os.fork()
        if self.wire == 0:
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
                self.enter(self.netns[2])
                wire([self.tag + "wc", self.tag + "wg"], self.lost_file)
            finally:  # whatever happens, nothing of the stand is the child's
                os._exit(1)
        self.enter(self.netns[0])

    def enter(self, name):
        fd = os.open("/run/netns/" + name, os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
            os._exit(1)
        os.close(fd)

    def lost(self):
        return struct.unpack("!II", os.pread(self.lost_file, 8, 0))

    def __exit__(self, *why):
        try:
            super().__exit__(*why)
        finally:
            if getattr(self, "wire", 0):
                os.kill(self.wire, signal.SIGKILL)
                os.waitpid(self.wire, 0)


def held_requests_over_a_wire_that_loses():
    with LossyStand(sys.argv) as stand:
        stand.wait_for_guest()
        before = stand.lost()
        c = http.client.HTTPConnection(GUEST, 80, timeout=60)
        slowest = 0
        for n in range(12):
            # Several segments, and suspicious: the answer repeats what the clone and then the guest took.
            note = "".join("%d;%d" % (n, i) for i in range(900))
            start = time.monotonic()
            status, body = stand.get("/cgi-bin/lookup?host=localhost&note=" + note, connection=c)
            require(status == 200 and note in body, "request %d was answered with %s" % (n, status))
            status, body = stand.get("/", connection=c)
            require(status == 200, "the innocent request behind %d was answered with %s" % (n, status))
            slowest = max(slowest, time.monotonic() - start)
        info = c.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        options, retransmitted = info[5], struct.unpack("I", info[100:104])[0]
        c.close()
        to_guest, to_client = (a - b for a, b in zip(stand.lost(), before))
        require(options & 7 == 7, "the connection has not all of timestamps, SACK and window scaling: %#x" % options)
        require(to_guest > 3 and to_client > 3, "the wire lost %d and %d segments only" % (to_guest, to_client))
        require(retransmitted > 0, "the client sent nothing again")
        verdicts = stand.verdicts()
        require(len(verdicts) >= 12 and set(verdicts) == {("clean", "released")}, "verdicts: %s" % verdicts)
        print("     lost %d to the guest, %d to the client; %d sent again by the client; slowest pair of requests %.2f s"
              % (to_guest, to_client, retransmitted, slowest), flush=True)


if __name__ == "__main__":
    main([held_requests_over_a_wire_that_loses])
