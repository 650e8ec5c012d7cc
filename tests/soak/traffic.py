"""What clients do during a soak, and the account of it: every innocent request is answered, or it overlaps a disturbance
of its guest that was declared before it was made; no attack has an effect."""

import http.client
import os
import random
import socket
import struct
import subprocess
import threading
import time

GRACE = 3  # seconds after a disturbance is over in which connections that it broke may still be noticed
TIMEOUT = 60  # also what a client waits for a guest that was killed before it answered: nobody tells it

PLAIN = [("/", "<html"), ("/about.html", "<html")]
# Requests that a rule holds and that do no harm, and what their answers show.
HELD = [
    ("/cgi-bin/lookup?host=localhost&note=fish;chips%d", "fish;chips%d"),
    ("/cgi-bin/lookup?host=guest&note=left|right%d", "left|right%d"),
    ("/cgi-bin/greet?name=" + "ho+" * 70 + "%d", "ho ho ho"),
    ("/about.html?back=a;b%d", "<html"),
]
SUSPICIOUS = b"GET /cgi-bin/lookup?host=localhost&note=a;b HTTP/1.1\r\nHost: guest\r\n"
ABANDONED = [b"", b"GET / HT", SUSPICIOUS, SUSPICIOUS + b"\r\n", b"\0\x90;|`$(" * 50, b"POST /;x HTTP/1.1\r\nContent-Length: 9999\r\n\r\nab"]


class Disturbances:
    """What was done to the gateway on purpose, to whom, from when until when."""

    def __init__(self):
        self.lock = threading.Lock()
        self.list = []

    def begin(self, what, guest=None):
        entry = {"what": what, "guest": guest, "begin": time.monotonic(), "end": None}
        with self.lock:
            self.list.append(entry)
        return entry

    def end(self, entry):
        entry["end"] = time.monotonic()

    def excuse(self, guest, begin, end):
        with self.lock:
            for e in self.list:
                if e["guest"] in (None, guest) and e["begin"] <= end and (e["end"] is None or begin <= e["end"] + GRACE):
                    return e["what"]
        return None


class Traffic:
    def __init__(self, guests, attacks, disturbances, violation):
        """guests: {NAME: address}; attacks: paths of executables; violation(text) is told what must not happen."""
        self.guests, self.attacks, self.disturbances, self.violation = guests, attacks, disturbances, violation
        self.lock = threading.Lock()
        self.count = dict.fromkeys(("plain", "held", "attacks", "abandoned", "excused", "excused_attacks"), 0)
        self.go, self.ending = threading.Event(), False
        self.busy = 0
        self.threads = []

    def add(self, key):
        with self.lock:
            self.count[key] += 1

    def start(self):
        self.go.set()
        kinds = [self.plain, self.plain, self.held, self.held, self.attack, self.abandon]
        for n, kind in enumerate(kinds):
            thread = threading.Thread(target=self.loop, args=(kind, random.Random(n)), daemon=True)
            self.threads.append(thread)
            thread.start()

    def loop(self, kind, dice):
        state, n = {}, 0
        while not self.ending:
            self.go.wait()
            with self.lock:
                # A rest that begins right now is not to be overlooked: it counts who is busy under the same lock.
                if not self.go.is_set() or self.ending:
                    continue
                self.busy += 1
            try:
                guest = "web" if dice.random() < 0.7 else "other"
                pause = kind(guest, n, dice, state)
            except Exception as error:  # a broken client would look like a quiet gateway
                self.violation("the soak's own client failed: %r" % error)
                pause = 1
            finally:
                with self.lock:
                    self.busy -= 1
            n += 1
            time.sleep(pause)
        for connection in state.values():
            connection.close()

    def rest(self):
        with self.lock:
            self.go.clear()

    def resting(self):
        with self.lock:
            return not self.go.is_set() and not self.busy

    def resume(self):
        self.go.set()

    def end(self):
        self.ending = True
        self.go.set()
        for thread in self.threads:
            thread.join(TIMEOUT)

    def request(self, guest, path, expected, kind, connection=None, born=None):
        """One innocent request; True when it was answered as it should be."""
        begin = time.monotonic()
        c = connection or http.client.HTTPConnection(self.guests[guest], 80, timeout=TIMEOUT)
        why = None
        try:
            c.request("GET", path)
            answer = c.getresponse()
            body = answer.read().decode("latin-1")
            if answer.status != 200 or expected.lower() not in body.lower():
                why = "status %d, %r" % (answer.status, body[:80])
        except (OSError, http.client.HTTPException) as error:
            why = repr(error)
        finally:
            if not connection:
                c.close()
        end = time.monotonic()
        if why is None:
            self.add(kind)
            return True
        if self.disturbances.excuse(guest, begin if born is None else born, end):
            self.add("excused")
        else:
            self.violation("an innocent request was lost: GET %s of %s after %.1f s: %s" % (path[:80], guest, end - begin, why))
        return False

    def plain(self, guest, n, dice, state):
        path, expected = dice.choice(PLAIN)
        if dice.random() < 0.5:
            self.request(guest, path, expected, "plain")
            return 0.1
        # A connection that is kept for some requests, as a browser's; the server may close it after 75 s.
        key = guest
        if key in state and (n % 20 == 0 or time.monotonic() - state[key].born > 30):
            state.pop(key).close()
        if key not in state:
            state[key] = http.client.HTTPConnection(self.guests[guest], 80, timeout=TIMEOUT)
            state[key].born = time.monotonic()
        if not self.request(guest, path, expected, "plain", state[key], state[key].born):
            state.pop(key).close()
        return 0.1

    def held(self, guest, n, dice, state):
        path, expected = dice.choice(HELD)
        if "%d" in expected:
            expected %= n
        self.request(guest, path % n, expected, "held")
        return 0.2

    def attack(self, guest, n, dice, state):
        attack = self.attacks[n % len(self.attacks)]
        begin = time.monotonic()
        code = subprocess.run([attack, "http://" + self.guests[guest]], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=dict(os.environ, DELAY="5")).returncode
        excuse = self.disturbances.excuse(guest, begin, time.monotonic())
        if code == 0:
            self.violation("the attack %s reached the guest %s" % (os.path.basename(attack), guest))
        elif code == 1:
            self.add("attacks")
        elif excuse:
            self.add("excused_attacks")
        else:
            self.violation("what the attack %s did in guest %s could not be told (exit code %d)" %
                           (os.path.basename(attack), guest, code))
        return 0.5

    def abandon(self, guest, n, dice, state):
        """A client that goes away: before, within or right after its request, by a reset or in silence."""
        try:
            with socket.create_connection((self.guests[guest], 80), timeout=10) as s:
                s.sendall(dice.choice(ABANDONED))
                if dice.random() < 0.7:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.add("abandoned")
        except OSError:
            pass  # whoever goes away does not care why
        return 2
