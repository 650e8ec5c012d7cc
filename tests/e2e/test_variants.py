#!/usr/bin/python3
"""The planted command injection, sent in the ways that have carried attacks past inspection. Whatever the way: the live
guest is not touched, the verdict is not clean, and an innocent request that looks the same is answered."""

import http.client
import sys
import time

from rawtcp import RawTcp, PSH, ACK, URG
from stand import GUEST, Stand, main, require, until

ATTACK = "/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/%s"
# Without a word that looks like a command: only what is a URL's parameter tells.
BUILTIN = "/cgi-bin/lookup?host=localhost;:>/var/www/touched/%s"
TWIN = "/cgi-bin/lookup?host=localhost&note=a;b"

stand = None
ports = iter(range(21000, 30000))


def client(name):
    return RawTcp(stand.tag + "c", "10.0.2.77", GUEST, sport=next(ports))


def request(path):
    return ("GET %s HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n" % path).encode()


def blocked(name, before):
    """After the attack: a hold that ended malicious or suspicious and dropped; no trace in the live guest. What was sent with it may be in
    the same hold, or in one of its own before it."""
    def stopped():
        ours = [a["alert"]["context"]["foretaste"] for a in stand.alerts()[before:]]
        return any(o["verdict"] in ("malicious", "suspicious") for o in ours)
    until(stopped, "a hold that was stopped")
    require(not stand.touched(name), "the live guest was touched")
    require("touched/" + name not in stand.requests().replace("GET /touched/" + name, ""), "nginx logged the attack")


def plain_attack_is_stopped_and_its_twin_answered():
    before = len(stand.alerts())
    status, _ = stand.get(ATTACK % "plain")
    require(status is None, "the attack was answered with %s" % status)
    blocked("plain", before)
    status, body = stand.get(TWIN)
    require(status == 200 and "a;b" in body, "the innocent twin was answered with %s: %s" % (status, body))
    require(stand.verdicts()[-1] == ("clean", "released"), "the twin's verdict: %s" % (stand.verdicts()[-1],))


def second_request_on_a_kept_connection():
    before = len(stand.alerts())
    c = http.client.HTTPConnection(GUEST, 80, timeout=60)
    require(stand.get("/", connection=c)[0] == 200, "the first request was not answered")
    require(stand.get(ATTACK % "kept", connection=c)[0] is None, "the second request was answered")
    c.close()
    blocked("kept", before)


def tenth_request_on_a_kept_connection():
    before = len(stand.alerts())
    c = http.client.HTTPConnection(GUEST, 80, timeout=60)
    for n in range(9):
        require(stand.get("/", connection=c)[0] == 200, "request %d was not answered" % n)
    require(stand.get(ATTACK % "tenth", connection=c)[0] is None, "the tenth request was answered")
    c.close()
    blocked("tenth", before)


def bytes_sent_while_the_first_hold_is_tried():
    """An innocent suspicious request, and the attack pipelined behind it before its verdict can be there."""
    before = len(stand.alerts())
    c = client("pipelined")
    require(c.connect(), "no connection")
    first = ("GET %s HTTP/1.1\r\nHost: guest\r\n\r\n" % TWIN).encode()
    base = c.sequence
    c.segment(first, sequence=base)
    time.sleep(0.02)  # longer than the gather time, shorter than any trial
    second = request(ATTACK % "pipelined")
    c.segment(second, sequence=base + len(first))
    c.sequence = base + len(first) + len(second)
    until(lambda: c.pump(lambda: c.reset, 1) or c.segment(second, sequence=base + len(first)), "the connection is reset")
    c.close()
    blocked("pipelined", before)


def split_over_many_segments():
    before = len(stand.alerts())
    c = client("split")
    require(c.connect(), "no connection")
    c.send(request(ATTACK % "split"), pieces=7)
    c.pump(lambda: c.reset, 30)
    require(c.reset, "the connection was not reset")
    c.close()
    blocked("split", before)


def one_byte_per_segment():
    before = len(stand.alerts())
    c = client("bytes")
    require(c.connect(), "no connection")
    c.send(request(ATTACK % "bytes"), pieces=1)
    c.pump(lambda: c.reset, 30)
    require(c.reset, "the connection was not reset")
    c.close()
    blocked("bytes", before)


def overlapping_retransmission_with_other_bytes():
    """The same sequence numbers twice: first harmless behind a gap and in order, then the attack over them."""
    before = len(stand.alerts())
    c = client("overlap")
    require(c.connect(), "no connection")
    attack = request(ATTACK % "overlap")
    harmless = attack.replace(b";", b"/").replace(b"$", b"/")
    base = c.sequence
    half = attack.index(b";") - 4
    c.segment(harmless[:half], sequence=base)
    c.segment(harmless[half:half + 40], sequence=base + half + 1)  # behind a gap of one byte
    c.segment(attack[half:], sequence=base + half)                 # fills the gap, overlaps with other bytes
    c.segment(harmless[half:], sequence=base + half)               # and once more the other way round
    c.sequence = base + len(attack)
    c.pump(lambda: c.reset or c.finished, 20)
    c.close()
    require(not stand.touched("overlap"), "the live guest was touched")
    require(len(stand.alerts()) > before, "nothing was held")


def overlap_with_bytes_the_guest_has_taken():
    before = len(stand.alerts())
    c = client("late")
    require(c.connect(), "no connection")
    base = c.sequence
    c.segment(b"GET /index.html?a=1 HTTP/1.1\r\n", sequence=base)
    c.pump(lambda: c.all_acknowledged(base + 30), 10)
    attack = request(ATTACK % "late")
    c.segment(attack, sequence=base)
    c.sequence = base + len(attack)
    c.pump(lambda: c.reset or c.finished, 20)
    c.close()
    require(not stand.touched("late"), "the live guest was touched")
    require(len(stand.alerts()) > before, "nothing was held")


def data_in_the_syn():
    c = client("syn")
    attack = request(ATTACK % "syn")
    require(c.connect(attack), "no connection")
    # The guest must not have taken the SYN's data: the first byte is still unacknowledged, so it is sent again.
    c.pump(lambda: False, 1)
    c.send(attack)
    c.pump(lambda: c.reset, 30)
    c.close()
    require(c.reset, "the connection was not reset")
    require(not stand.touched("syn"), "the live guest was touched")
    counters = stand.cli("metrics")
    reasons = counters.get("reasons", counters)
    require(any("syn-data" in k and v for k, v in reasons.items() if isinstance(v, (int, float))), "drop.syn-data was not counted")


def written_as_servers_take_it_and_nobody_writes_it():
    before = len(stand.alerts())
    c = client("loose")
    require(c.connect(), "no connection")
    c.send(("GET   %s HTTP/1.1\nHost: guest\nConnection: close\n\n" % (BUILTIN % "loose")).encode())
    c.pump(lambda: c.reset or c.finished, 30)
    require(c.reset, "the connection was not reset")
    c.close()
    blocked("loose", before)


def right_behind_the_body_of_another_request():
    before = len(stand.alerts())
    c = client("behind")
    require(c.connect(), "no connection")
    c.send(b"POST /index.html HTTP/1.1\r\nHost: guest\r\nContent-Length: 3\r\n\r\nx\n1")
    c.pump(lambda: c.received or c.reset, 30)
    require(c.received, "the first request was not answered")
    c.send(request(BUILTIN % "behind"))
    c.pump(lambda: c.reset or c.finished, 30)
    require(c.reset, "the connection was not reset")
    c.close()
    blocked("behind", before)


def an_urgent_byte_hides_nothing():
    """A guest takes the urgent byte out of the stream: here the newline that keeps the pattern from matching."""
    c = client("urgent")
    require(c.connect(), "no connection")
    text = request((BUILTIN % "urgent").replace(";", "\n;"))
    cut = text.index(b"\n") + 1
    c.segment(text[:cut], flags=ACK | PSH | URG, urgent=cut)
    c.pump(lambda: c.all_acknowledged(c.sequence + cut), 10)
    c.segment(text[cut:], sequence=c.sequence + cut)
    c.sequence += len(text)
    c.pump(lambda: c.reset or c.finished, 30)
    c.close()
    require(not stand.touched("urgent"), "the live guest was touched")
    require(c.reset or c.finished, "the connection did not end")


def innocent_traffic_goes_on_meanwhile():
    answered = [stand.get("/")[0] for _ in range(20)]
    require(answered == [200] * 20, "answers: %s" % answered)


def run_all():
    global stand
    with Stand(sys.argv) as made:
        stand = made
        stand.wait_for_guest()
        main([plain_attack_is_stopped_and_its_twin_answered, second_request_on_a_kept_connection,
              tenth_request_on_a_kept_connection, bytes_sent_while_the_first_hold_is_tried, split_over_many_segments,
              one_byte_per_segment, overlapping_retransmission_with_other_bytes, overlap_with_bytes_the_guest_has_taken,
              data_in_the_syn, written_as_servers_take_it_and_nobody_writes_it, right_behind_the_body_of_another_request,
              an_urgent_byte_hides_nothing, innocent_traffic_goes_on_meanwhile])


if __name__ == "__main__":
    run_all()
