#!/bin/bash
# The dataplane between a real kernel's stack and an echo peer on the real ring: two network namespaces and a veth pair.
# Counts what the client got, not what the gateway says. Usage: echo.sh BUILD_DIR
set -eu
build=$1
name=ftecho$$
work=$(mktemp -d)
client=$name-c gateway=$name-g
cleanup() {
	ip netns del "$client" 2>/dev/null || true
	ip netns del "$gateway" 2>/dev/null || true
	rm -rf "$work"
}
trap cleanup EXIT
if [ "$(id -u)" != 0 ] || ! ip netns add "$client" 2>/dev/null; then
	echo "SKIP: network namespaces need root"
	exit 77
fi
ip netns add "$gateway"
ip -n "$client" link add c0 type veth peer name g0 netns "$gateway"
ip -n "$client" addr add 10.0.2.9/24 dev c0
ip -n "$client" link set c0 up
ip -n "$gateway" link set g0 up
# On from the start, so that it has to be switched off and on again.
ip netns exec "$gateway" ethtool -K g0 gro on
before=$(ip netns exec "$gateway" ethtool -k g0; ip netns exec "$client" ethtool -k c0)

cat > "$work/config.json" <<E
{"uplinks": {"wan": {"port": "net_af_packet0,iface=g0"}},
 "guests": {"echo": {"mac": "02:00:00:00:00:01", "address": "10.0.2.15"}}}
E
# ARP, ICMP echo of several sizes and UDP echo through the client's kernel: every byte has to come back.
cat > "$work/client.py" <<'E'
import os, socket, struct, sys

def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff

icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for s in (icmp, udp):
    s.settimeout(5)
for n, size in enumerate([8, 56, 512, 1472]):
    body = os.urandom(size)
    request = struct.pack("!BBHHH", 8, 0, 0, 77, n) + body
    request = request[:2] + struct.pack("!H", checksum(request)) + request[4:]
    icmp.sendto(request, ("10.0.2.15", 0))
    while True:
        answer = icmp.recv(4096)[20:]
        if answer[0] == 0 and answer[4:8] == struct.pack("!HH", 77, n):
            break
    assert answer[8:] == body and checksum(answer) == 0, "echo %d differs" % size
    udp.sendto(body, ("10.0.2.15", 4000))
    assert udp.recv(4096) == body, "UDP echo %d differs" % size
E
peer=(ip netns exec "$gateway" "$build/tests/dataplane/echo_peer" "$build/src/dataplane/foretaste-dataplane"
	"$work/config.json")
run() { "${peer[@]:0:5}" "$@" "${peer[@]:5}" ip netns exec "$client" /usr/bin/python3 "$work/client.py"; }

counters=$(run)
echo "$counters"
/usr/bin/python3 - "$counters" <<'E'
import json, sys
counters = json.loads(sys.argv[1])
assert counters["reasons"]["pass.outbound"] >= 9, counters
assert counters["reasons"]["pass.uninspected"] >= 9, counters
# A veth peer leaves UDP checksums to hardware that is not there; the echo peer answers only right ones.
assert counters["checksums_completed"] >= 4, counters
E
echo "echo: ok"
run --garbage > "$work/garbage.json"
echo "garbage in the ring, then a fresh link: ok"
offloads() { ip netns exec "$gateway" ethtool -k g0; ip netns exec "$client" ethtool -k c0; }
[ "$before" = "$(offloads)" ] || { echo "offloads were not restored"; exit 1; }

# Killed, it cannot restore anything itself.
cat > "$work/kill.sh" <<'E'
gro=$(ethtool -k g0 | grep generic-receive)
[ "$gro" = "generic-receive-offload: off" ] || { echo "while the gateway runs: $gro"; exit 1; }
kill -9 "$(pgrep -P "$PPID" -f foretaste-dataplane)"
exec tail --pid="$PPID" -f /dev/null
E
"${peer[@]}" bash "$work/kill.sh" 2> "$work/killed.txt" && exit 1
grep -q "the dataplane ended" "$work/killed.txt" || { cat "$work/killed.txt"; exit 1; }
for _ in $(seq 200); do
	[ "$before" = "$(offloads)" ] && break
	sleep 0.05
done
[ "$before" = "$(offloads)" ] || { echo "offloads were not restored after a kill"; exit 1; }
echo "offloads restored: ok"

# The same between two capture files: every request of the one is answered in the other.
cat > "$work/make.py" <<'E'
import sys
from scapy.all import ARP, ICMP, IP, UDP, Ether, Raw, wrpcap
guest, client = "02:00:00:00:00:01", "02:00:00:00:00:09"
frames = [Ether(dst="ff:ff:ff:ff:ff:ff", src=client) / ARP(hwsrc=client, psrc="10.0.2.9", pdst="10.0.2.15")]
for n in range(20):
    ip = Ether(dst=guest, src=client) / IP(src="10.0.2.9", dst="10.0.2.15")
    frames.append(ip / ICMP(id=1, seq=n) / Raw(bytes(n)))
    frames.append(ip / UDP(sport=1000 + n, dport=7) / Raw(bytes([n] * 700)))
frames.append(Ether(dst="02:00:00:00:00:77", src=client) / IP(dst="10.0.2.15") / ICMP())
wrpcap(sys.argv[1], frames)
E
cat > "$work/check.py" <<'E'
import sys
from scapy.all import ARP, ICMP, IP, UDP, rdpcap
frames = rdpcap(sys.argv[1])
assert len(frames) == 41, len(frames)
assert frames[0][ARP].hwsrc == "02:00:00:00:00:01" and frames[0][ARP].op == 2
assert [f[ICMP].seq for f in frames if ICMP in f and f[ICMP].type == 0] == list(range(20))
assert [f[UDP].dport for f in frames if UDP in f] == [1000 + n for n in range(20)]
for f in frames[1:]:
    assert f[IP].src == "10.0.2.15" and f[IP].dst == "10.0.2.9" and f.src == "02:00:00:00:00:01"
E
/usr/bin/python3 "$work/make.py" "$work/in.pcap" 2>/dev/null
cat > "$work/files.json" <<E
{"uplinks": {"wan": {"port": "net_pcap0,rx_pcap=$work/in.pcap,tx_pcap=$work/out.pcap"}},
 "guests": {"echo": {"mac": "02:00:00:00:00:01", "address": "10.0.2.15"}}}
E
counters=$("$build/tests/dataplane/echo_peer" --answers 41 "$build/src/dataplane/foretaste-dataplane" "$work/files.json")
echo "$counters"
/usr/bin/python3 "$work/check.py" "$work/out.pcap" 2>/dev/null
echo "$counters" | grep -q '"drop.not-ours": \?1' || { echo "the frame for somebody else was not counted"; exit 1; }
echo "capture files: ok"

# Two ports in one process: what comes in at the second goes out there, and the first, with the same frames, has no guest.
cat > "$work/ports.json" <<E2
{"uplinks": {"wan": {"port": "net_pcap0,rx_pcap=$work/in.pcap,tx_pcap=$work/wan.pcap"},
             "lan": {"port": "net_pcap1,rx_pcap=$work/in.pcap,tx_pcap=$work/lan.pcap"}},
 "guests": {"echo": {"uplink": "lan", "mac": "02:00:00:00:00:01", "address": "10.0.2.15"}}}
E2
counters=$("$build/tests/dataplane/echo_peer" --answers 41 "$build/src/dataplane/foretaste-dataplane" "$work/ports.json")
/usr/bin/python3 "$work/check.py" "$work/lan.pcap" 2>/dev/null
echo "$counters" | grep -q '"drop.not-ours": \?43' || { echo "the other uplink's frames were not counted: $counters"; exit 1; }
[ "$(stat -c %s "$work/wan.pcap")" = 24 ] || { echo "frames went out at the wrong port"; exit 1; }
sed -i 's/net_pcap1/net_nothing1/' "$work/ports.json"
said=$("$build/tests/dataplane/echo_peer" --answers 41 "$build/src/dataplane/foretaste-dataplane" "$work/ports.json" 2>&1) && exit 1
case $said in *'uplink lan, port \"net_nothing1'*) ;; *) echo "the uplink that cannot be opened is not named: $said"; exit 1 ;; esac
echo "two ports: ok"
