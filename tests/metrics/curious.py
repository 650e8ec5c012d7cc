#!/usr/bin/python3
"""In the place of foretaste-metrics: asks on its control connection for more than it may, and writes down the answers."""

import array
import json
import os
import socket

channel = socket.socket(fileno=3)
_, ancillary, _, _ = channel.recvmsg(1 << 17, socket.CMSG_SPACE(16 * 4))
fds = array.array("i")
for level, kind, data in ancillary:
    fds.frombytes(data[:len(data) - len(data) % fds.itemsize])
control = socket.socket(fileno=fds[1])
control.setblocking(True)
channel.send(json.dumps({"op": "ready"}).encode())
for what in ("status", "guest-stop", "show"):
    control.sendall(json.dumps({"what": what, "id": "bad", "guest": "web", "hold": 1}).encode() + b"\n")
control.sendall(json.dumps({"what": "metrics", "id": "good"}).encode() + b"\n")
lines = control.makefile()
path = os.path.join(os.environ["FORETASTE_PEERS"], "curious")
with open(path + ".new", "w") as f:
    f.writelines(lines.readline() for _ in range(4))
os.rename(path + ".new", path)
while True:
    message = channel.recv(1 << 17)
    if not message or json.loads(message)["op"] == "stop":
        break
