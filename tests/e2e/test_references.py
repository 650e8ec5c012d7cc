#!/usr/bin/python3
"""Two recorded guests that talk to each other: with journal.by_reference what one gets from the other is in the sender's journal alone,
and a replay of either takes it from the other's replay, to the same end and with every state as recorded."""

import glob
import http.client
import json
import os
import sys
import urllib.parse

from stand import AS_SHIPPED, GUEST, Stand, main, require, run, until

NEAR = "10.0.2.16"
KIB = 3000
# What near is made to run: it fetches a file from web and says how long it was.
ASK = r"""perl -MIO::Socket::INET -e '
my $s = IO::Socket::INET->new(PeerAddr => "%s:80", Timeout => 30) or do { print "no connection: $!\n"; exit };
print $s "GET /touched/big HTTP/1.0\r\nHost: guest\r\n\r\n";
my $n = 0; while (my $k = read $s, my $buffer, 65536) { $n += $k }
print "fetched $n\n"'"""


class Pair(Stand):
    def __init__(self, by_reference):
        super().__init__(sys.argv, guest=dict(AS_SHIPPED, journal="on"),
                         top={"journal": {"by_reference": by_reference, "checkpoint_every": "24 h"}, "services": {}})
        web = self.config["guests"]["web"]
        self.config["guests"]["near"] = dict(web, mac="52:54:00:00:02:10", address=NEAR,
                                             cmdline=web["cmdline"] + " foretaste.address=" + NEAR)

    def shell(self, address, command):
        """What a command prints in the guest at that address."""
        c = http.client.HTTPConnection(address, 80, timeout=120)
        try:
            c.request("GET", "/cgi-bin/lookup?host=" + urllib.parse.quote("localhost;" + command))
            return c.getresponse().read().decode("latin-1")
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            c.close()

    def journal(self, guest):
        return os.path.join(self.config["state"], "journal", guest)

    def stored(self, guest):
        return sum(os.path.getsize(path) for path in glob.glob(self.journal(guest) + "/*.journal"))

    def replay(self, guest, *more):
        other = "web" if guest == "near" else "near"
        got = run(self.program("foretaste"), "replay", self.journal(guest), "--disk", self.config["guests"][guest]["disk"], "--json", *more,
                  *(() if more else ("--peer", other + "=" + self.config["guests"][other]["disk"])), check=False)
        report = json.loads(got.stdout.splitlines()[-1]) if got.stdout.strip() else None
        return got.returncode, report, got.stderr


def talk(by_reference):
    with Pair(by_reference) as stand:
        stand.wait_for_guest()
        until(lambda: "localhost" in stand.shell(NEAR, "echo localhost"), "near answers")
        stand.shell(GUEST, "dd if=/dev/urandom of=/var/www/touched/big bs=1k count=%d" % KIB)
        said = stand.shell(NEAR, ASK % GUEST)
        require(any(int(word) >= KIB << 10 for word in said.split() if word.isdigit()), "near did not get it: " + said[-200:])
        status = {guest: stand.cli("status")["processes"]["vmm " + guest]["status"]["journal"] for guest in ("web", "near")}
        require(stand.stop() == 0, "the gateway's exit code")
        figures = {guest: {"segments": stand.stored(guest), "referred": status[guest].get("referred_bytes", 0)} for guest in status}
        for guest in ("near", "web"):
            code, report, errors = stand.replay(guest)
            require(code == 0 and report["end"] == "end of the journal" and report["checked"] == report["instructions"],
                    "replay of %s: exit %d %s %s" % (guest, code, errors, report))
            figures[guest].update(of_peers=report["of_peers"], of_peers_bytes=report["of_peers_bytes"], frames_in=report["frames_in"],
                                  frames_out=report["frames_out"], took_s=report["took_s"])
        if by_reference == "on":
            code, report, errors = stand.replay("near", "--trace", "network")
            require(code > 1 and "refers to that of guest web" in errors, "a replay without the peer: exit %d %s" % (code, errors))
            # The peer's journal is another one's: its frames are not what was referred to. Changed in front, for near needs nothing of
            # what web's last chunk has when the gateway went on for a second after the last frame between them.
            path = sorted(glob.glob(stand.journal("web") + "/*.journal"))[0]
            with open(path, "r+b") as f:
                f.seek(os.path.getsize(path) // 4)
                byte = f.read(1)
                f.seek(-1, os.SEEK_CUR)
                f.write(bytes([byte[0] ^ 1]))
            code, report, errors = stand.replay("near")
            require(code >= 1 and "guest web" in errors, "a replay with a changed peer: exit %d %s" % (code, errors))
        return figures


def what_a_peer_has_is_kept_once():
    plain, short = talk("off"), talk("on")
    print("     by value     %s" % json.dumps(plain))
    print("     by reference %s" % json.dumps(short))
    require(plain["near"]["segments"] > KIB << 10, "3 MB of random bytes in %d" % plain["near"]["segments"])
    require(short["near"]["segments"] < plain["near"]["segments"] / 5, "by reference it is no shorter: %s" % short)
    require(short["near"]["of_peers_bytes"] > KIB << 10 and short["web"]["of_peers"] > 100, "taken from the peers' replays: %s" % short)
    require(plain["near"]["of_peers"] == 0, "referred to, though it is off")


if __name__ == "__main__":
    main([what_a_peer_has_is_kept_once])
