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


class RawTcp:
    def __init__(self, interface, source, destination, port=80, sport=None):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((interface, 0))
        self.mac = b"\x02" + os.urandom(5)
        self.source, self.destination = socket.inet_aton(source), socket.inet_aton(destination)
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
        frame = (to or self.peer) + self.mac + struct.pack("!H", kind) + payload
        self.socket.send(frame.ljust(60, b"\0"))

    def arp(self, operation, to_mac, to_ip, ethernet_to):
        self.ethernet(0x0806, struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + self.mac + self.source + to_mac + to_ip,
                      ethernet_to)

    def packet(self, flags, sequence, acknowledgement, payload=b"", options=b"", urgent=0):
        header = struct.pack("!HHIIBBHHH", self.sport, self.dport, sequence & 0xffffffff, acknowledgement & 0xffffffff,
                             (5 + len(options) // 4) << 4, flags, self.window, 0, urgent) + options
        pseudo = self.source + self.destination + struct.pack("!BBH", 0, 6, len(header) + len(payload))
        header = header[:16] + struct.pack("!H", checksum(pseudo + header + payload)) + header[18:]
        total = 20 + len(header) + len(payload)
        ip = struct.pack("!BBHHHBBH", 0x45, 0, total, self.identity & 0xffff, 0x4000, 64, 6, 0) + self.source + self.destination
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        self.identity += 1
        return ip + header + payload

    def segment(self, payload=b"", flags=ACK | PSH, sequence=None, acknowledgement=None, options=b"", urgent=0):
        self.ethernet(0x0800, self.packet(flags, self.sequence if sequence is None else sequence,
                                          self.expected if acknowledgement is None else acknowledgement, payload, options,
                                          urgent))

    # ---- receiving -------------------------------------------------------------------------------------------------

    def take(self, frame):
        kind, payload = struct.unpack("!H", frame[12:14])[0], frame[14:]
        if kind == 0x0806 and payload[24:28] == self.source:
            operation = struct.unpack("!H", payload[6:8])[0]
            if operation == 1:
                self.arp(2, payload[8:14], payload[14:18], payload[8:14])
            elif payload[14:18] == self.destination:
                self.peer = payload[8:14]
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

    def connect(self, data=b""):
        for _ in range(20):
            if self.peer:
                break
            self.arp(1, b"\0" * 6, self.destination, b"\xff" * 6)
            self.pump(lambda: self.peer, 1)
        if not self.peer:
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
