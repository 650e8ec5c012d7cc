"""A TCP client that decides every segment itself, for what a kernel's TCP would never send. It uses an address of its own
on the client's interface (the kernel there knows nothing of it and so resets nothing) and answers ARP for it."""

import os
import select
import socket
import struct
import time

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def address(text):
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


def option_header(following, size=8):
    """Destination options of that size: padding only."""
    return bytes([following, size // 8 - 1, 1, size - 4]) + bytes(size - 4)


class RawTcp:
    """tags: VLAN numbers, outermost first. extensions: function from the next header's number to (number, bytes) of IPv6
    extension headers in front of it. fragment: size of the pieces that each packet is cut into."""

    def __init__(self, interface, source, destination, port=80, sport=None, tags=(), extensions=None, fragment=None):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((interface, 0))
        self.mac = b"\x02" + os.urandom(5)
        self.source, self.destination = address(source), address(destination)
        self.six = len(self.source) == 16
        self.tags, self.extensions, self.fragment = tags, extensions, fragment
        self.sport, self.dport = sport or 20000 + os.getpid() % 20000, port
        self.peer = None
        self.sequence = struct.unpack("!I", os.urandom(4))[0]
        self.start = self.sequence
        self.expected = 0
        self.received = b""
        self.reset = self.finished = False
        self.acknowledged = self.sequence
        self.resets = []
        self.identity = 1
        self.window = 65535

    # ---- frames ----------------------------------------------------------------------------------------------------

    def ethernet(self, kind, payload, to=None):
        tags = b"".join(struct.pack("!HH", 0x8100, tag) for tag in self.tags)
        frame = (to or self.peer) + self.mac + tags + struct.pack("!H", kind) + payload
        self.socket.send(frame.ljust(60, b"\0"))

    def arp(self, operation, to_mac, to_ip, ethernet_to):
        self.ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + self.mac + self.source + to_mac + to_ip,
                      ethernet_to)

    def packet(self, flags, sequence, acknowledgement, payload=b"", options=b"", urgent=0):
        header = struct.pack("!HHIIBBHHH", self.sport, self.dport, sequence & 0xffffffff, acknowledgement & 0xffffffff,
                             (5 + len(options) // 4) << 4, flags, self.window, 0, urgent) + options
        pseudo = self.source + self.destination + struct.pack("!BBH", 0, 6, len(header) + len(payload))
        return header[:16] + struct.pack("!H", checksum(pseudo + header + payload)) + header[18:] + payload

    def ip(self, protocol, payload, offset=0, more=False, whole=True):
        """One IP packet around payload; with whole=False a fragment of the one named by self.identity."""
        if self.six:
            if not whole:
                payload = struct.pack("!BBHI", protocol, 0, offset | more, self.identity) + payload
                protocol = 44
            elif self.extensions:
                protocol, front = self.extensions(protocol)
                payload = front + payload
            return struct.pack("!IHBB", 0x60000000, len(payload), protocol, 64) + self.source + self.destination + payload
        place = 0x4000 if whole else offset // 8 | (0x2000 if more else 0)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), self.identity & 0xffff, place, 64, protocol, 0)
        ip += self.source + self.destination
        return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + payload

    def put(self, protocol, payload):
        self.identity += 1
        if not self.fragment or len(payload) <= self.fragment:
            self.ethernet(0x86dd if self.six else 0x0800, self.ip(protocol, payload))
            return
        for at in range(0, len(payload), self.fragment):
            self.piece(protocol, payload, at, at + self.fragment)

    def piece(self, protocol, payload, start, end):
        """Sends payload[start:end] as a fragment of payload."""
        self.ethernet(0x86dd if self.six else 0x0800,
                      self.ip(protocol, payload[start:end], start, end < len(payload), whole=False))

    def segment(self, payload=b"", flags=ACK | PSH, sequence=None, acknowledgement=None, options=b"", urgent=0):
        self.put(6, self.packet(flags, self.sequence if sequence is None else sequence,
                                self.expected if acknowledgement is None else acknowledgement, payload, options, urgent))

    # ---- receiving -------------------------------------------------------------------------------------------------

    def take(self, frame):
        while frame[12:14] in (b"\x81\x00", b"\x88\xa8"):  # the kernel has taken the outermost one off
            frame = frame[:12] + frame[16:]
        kind, payload = struct.unpack("!H", frame[12:14])[0], frame[14:]
        if kind == 0x0806 and payload[24:28] == self.source:
            operation = struct.unpack("!H", payload[6:8])[0]
            if operation == 1:
                self.arp(2, payload[8:14], payload[14:18], payload[8:14])
            elif payload[14:18] == self.destination:
                self.peer = payload[8:14]
        elif kind == 0x86dd and payload[6] == 58 and payload[40] == 136 and payload[48:64] == self.destination:
            self.peer = frame[6:12]
        elif kind == 0x86dd and payload[6] == 58 and payload[40] == 135 and payload[48:64] == self.source:
            self.neighbour(136, payload[8:24], self.source, frame[6:12])
        elif kind == 0x86dd and payload[6] == 6 and payload[24:40] == self.source:
            self.take_tcp(payload[40:40 + struct.unpack("!H", payload[4:6])[0]])
        elif kind == 0x0800 and payload[16:20] == self.source and payload[9] == 6:
            self.take_tcp(payload[(payload[0] & 15) * 4:struct.unpack("!H", payload[2:4])[0]])

    def take_tcp(self, tcp):
        sport, dport, sequence, acknowledgement, offset, flags = struct.unpack("!HHIIBB", tcp[:14])
        if (sport, dport) != (self.dport, self.sport):
            return
        if flags & RST:
            self.reset = True
            self.resets.append((sequence, flags, acknowledgement))
            return
        if flags & ACK:
            self.acknowledged = acknowledgement
        if flags & SYN:
            self.expected = (sequence + 1) & 0xffffffff
            return
        data = tcp[(offset >> 4) * 4:]
        if sequence == self.expected:
            self.received += data
            self.expected = (self.expected + len(data) + bool(flags & FIN)) & 0xffffffff
            self.finished |= bool(flags & FIN)
        if data or flags & FIN:
            self.segment(flags=ACK)

    def pump(self, condition, patience=60):
        """Receives until condition() or patience ends; returns condition()."""
        end = time.monotonic() + patience
        while not condition() and time.monotonic() < end:
            if select.select([self.socket], [], [], 0.05)[0]:
                self.take(self.socket.recv(65535))
        return condition()

    # ---- a client's doings --------------------------------------------------------------------------------------------

    def neighbour(self, kind, to, target, mac):
        """A neighbour solicitation (135) or advertisement (136)."""
        icmp = struct.pack("!BBHI", kind, 0, 0, 0x60000000 if kind == 136 else 0) + target
        icmp += struct.pack("!BB", 2 if kind == 136 else 1, 1) + self.mac
        pseudo = self.source + to + struct.pack("!II", len(icmp), 58)
        icmp = icmp[:2] + struct.pack("!H", checksum(pseudo + icmp)) + icmp[4:]
        self.ethernet(0x86dd, struct.pack("!IHBB", 0x60000000, len(icmp), 58, 255) + self.source + to + icmp, mac)

    def find_peer(self):
        for _ in range(20):
            if self.peer:
                break
            if self.six:
                group = b"\xff\x02" + bytes(9) + b"\x01\xff" + self.destination[13:]
                self.neighbour(135, group, self.destination, b"\x33\x33" + group[12:])
            else:
                self.arp(1, b"\0" * 6, self.destination, b"\xff" * 6)
            self.pump(lambda: self.peer, 1)
        return bool(self.peer)

    def connect(self, data=b""):
        if not self.find_peer():
            return False
        for _ in range(10):
            self.segment(data, SYN, self.start, 0, b"\x02\x04\x05\xb4")
            if self.pump(lambda: self.expected or self.reset, 3):
                break
        if not self.expected:
            return False
        self.sequence = (self.start + 1) & 0xffffffff
        self.segment(flags=ACK)
        return True

    def all_acknowledged(self, upto):
        return ((self.acknowledged - upto) & 0xffffffff) < 0x80000000

    def send(self, payload, pieces=None, wait=True, patience=60):
        """Sends payload in pieces of that many bytes; repeats what is not acknowledged. True when all was."""
        base, pieces = self.sequence, pieces or 1400
        end = (base + len(payload)) & 0xffffffff
        for at in range(0, len(payload), pieces):
            self.segment(payload[at:at + pieces], sequence=base + at)
        self.sequence = end
        if not wait:
            return True
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline and not self.reset:
            if self.pump(lambda: self.all_acknowledged(end) or self.reset, 2):
                break
            at = (self.acknowledged - base) & 0xffffffff
            for offset in range(at, len(payload), pieces):
                self.segment(payload[offset:offset + pieces], sequence=base + offset)
        return self.all_acknowledged(end) and not self.reset

    def close(self):
        if self.peer and not self.reset:
            self.segment(flags=RST | ACK)
        self.socket.close()
