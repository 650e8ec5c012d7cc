"""One soak, inside of its own namespaces: the plan, the measurements, the verdict over them. `run` starts it."""

import collections
import json
import math
import os
import random
import signal
import socket
import sys
import threading
import time

SOURCE, BUILD, IMAGES = (os.path.join("/run/soak", name) for name in ("source", "build", "images"))
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))

import stand  # noqa: E402
from stand import AS_SHIPPED, GUEST, Failure, Stand, require, until  # noqa: E402
from flat import growth  # noqa: E402
from traffic import Disturbances, Traffic  # noqa: E402

OTHER = "10.0.2.16"
GUESTS = {"web": GUEST, "other": OTHER}
# The parent-death signal of Linux comes when the thread ends that made a child; here the PID namespace does its work.
stand.end_with_parent = lambda: None

STEADY = ("supervisor", "ledger", "dataplane", "metrics", "vmm web")  # nobody kills these in the last two thirds
EVERY = 2  # seconds between two measurements
# What a process may come to have more over the two thirds that are watched, in KiB. It is a bound for the lower confidence
# limit of the growth, not for its estimate.
ALLOWANCE = 512
ARENA = 2 << 20  # src/vmm/dev/disk.c
AGED_HOLDS = 10500  # the ledger remembers 10,000: one that starts with these has nothing left to fill
PATIENCE = 300


def read(path):
    with open(path, errors="replace") as f:
        return f.read()


def memory_kib(pid):
    """(resident, data): resident memory, and private writable memory whether or not it was touched yet."""
    values = dict(line.split(":", 1) for line in read("/proc/%d/status" % pid).splitlines() if ":" in line)
    return int(values["VmRSS"].split()[0]), int(values["VmData"].split()[0])


def explained_kib(status):
    """What is known to grow up to a bound, as the process itself says: a guest's disk overlay, which comes in arenas."""
    return -(-status.get("disk_written", 0) // ARENA) * (ARENA >> 10)


class Soak(Stand):
    def __init__(self, minutes):
        quiet = {"wall": "60 s", "horizon": "30 s"}  # a slow host is not what is looked for
        super().__init__(["soak", BUILD, IMAGES], guest=AS_SHIPPED, service={"hold_time": "110 s", "feed_limit": 1000000},
                         top={"clone": quiet, "quarantine": {"quota": "2 MiB"}})
        self.source = SOURCE
        self.config["metrics"] = {"listen": os.path.join(self.directory, "metrics.sock")}
        self.config["flows"] = 2048
        # Its holds have numbers and, on purpose, no alert.
        self.config["canary"] = {"every": "0 s"}
        web, http = self.config["guests"]["web"], self.config["services"]["http"]
        self.config["guests"]["other"] = dict(web, mac="52:54:00:00:02:10", address=OTHER, cpu="90 %",
                                              cmdline=web["cmdline"] + " foretaste.address=" + OTHER)
        self.config["services"]["http-other"] = dict(http, guest="other")
        self.seconds = minutes * 60
        self.began = time.monotonic()
        self.reasons, self.reason_count, self.done = [], 0, collections.Counter()
        self.lock = threading.Lock()
        self.disturbances = Disturbances()
        folder = os.path.join(SOURCE, "tests", "e2e", "attacks")
        attacks = [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        self.traffic = Traffic(GUESTS, [a for a in attacks if os.path.isfile(a) and os.access(a, os.X_OK)],
                               self.disturbances, self.violation)
        self.samples = {name: [] for name in STEADY}  # of the last two thirds: (seconds, KiB)
        self.latest = {}
        self.seeds_killed = collections.Counter()
        self.watch_from = None
        self.pids_seen = set()
        self.scrapes = 0
        self.stopped = False
        self.dice = random.Random(20)

    def __exit__(self, *why):
        self.traffic.ending = True
        super().__exit__(*why)

    def show_logs(self):
        if self.stopped:
            return
        print("---- gateway.log, its end\n" + read(os.path.join(self.directory, "gateway.log"))[-4000:], file=sys.stderr)

    def age(self):
        return time.monotonic() - self.began

    def violation(self, text):
        with self.lock:
            self.reason_count += 1
            if len(self.reasons) < 20:
                self.reasons.append(text)
                print("%5.0f s  VIOLATION: %s" % (self.age(), text), flush=True)

    # ---- what is measured ----------------------------------------------------------------------------------------------

    def pids(self, status=None):
        """{name: pid} of the supervisor, its children and no clones."""
        found = {}
        for name, process in (status or self.cli("status"))["processes"].items():
            if process["pid"] > 0:
                found[name] = process["pid"]
        for pid, program in self.processes("foretasted"):
            found["supervisor"] = pid
        return found

    def measure(self):
        """One measurement of everything, or None while something is being replaced."""
        try:
            status = self.cli("status")
        except Failure:
            return None
        self.scrape()
        got = {}
        for name, pid in self.pids(status).items():
            inner = status["processes"].get(name, {}).get("status") or {}
            try:
                resident, data = memory_kib(pid)
                got[name] = {"pid": pid, "rss": resident, "own": data - explained_kib(inner),
                             "rings": read("/proc/%d/maps" % pid).count("/memfd:"), "fds": len(os.listdir("/proc/%d/fd" % pid)),
                             "threads": len(os.listdir("/proc/%d/task" % pid)), "status": inner}
                self.pids_seen.add(pid)
            except (OSError, KeyError):  # it ends, or has: a process that nobody has waited for yet has no memory
                continue
            if name.startswith("vmm") and inner:
                self.check_clones(name, pid, inner)
        return got

    def scrape(self):
        """As Prometheus does; whether it is answered is told by the process's own tests."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
                s.settimeout(10)
                s.connect(self.config["metrics"]["listen"])
                s.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                while s.recv(65536):
                    pass
            self.scrapes += 1
        except OSError:
            pass

    def check_clones(self, name, pid, status):
        forked, finished, died, running = (status[k] for k in ("clones_forked", "clones_finished", "clones_died", "clones"))
        if forked != finished + died + running:
            self.violation("%s: clones do not add up: %d forked, %d finished, %d died, %d run" %
                           (name, forked, finished, died, running))
        if died > self.seeds_killed[pid]:
            self.violation("%s: %d clones died, of which only %d were killed here" % (name, died, self.seeds_killed[pid]))
            self.seeds_killed[pid] = died

    def at_rest(self):
        """Traffic is stopped until everything that it began is over; what is there then."""
        self.traffic.rest()
        until(self.traffic.resting, "all clients have ended what they did", PATIENCE)
        until(lambda: self.cli("holds") == [], "no hold is open", PATIENCE)

        def quiet():
            got = self.measure()
            if not got or set(got) != set(STEADY) | {"vmm other"}:
                return None
            return got if all(p["status"].get("clones") == 0 for n, p in got.items() if n.startswith("vmm")) else None
        got = until(quiet, "no clone runs and nothing is being replaced", PATIENCE)
        supervisor = got["supervisor"]["pid"]

        def steady():  # connections of the measurement itself
            sockets = read("/proc/%d/net/unix" % supervisor).count("\n")
            return sockets if sockets == read("/proc/%d/net/unix" % supervisor).count("\n") else None
        got["sockets"] = until(steady, "the count of sockets settles")
        known = {p["pid"] for n, p in got.items() if isinstance(p, dict)}
        got["processes"] = len(self.processes()) - len(known)
        got["interfaces"] = len(read("/proc/%d/net/dev" % supervisor).splitlines())
        return got

    # ---- what is done to it --------------------------------------------------------------------------------------------

    def answers(self, guest):
        """The guest serves a new connection."""
        import http.client
        c = http.client.HTTPConnection(GUESTS[guest], 80, timeout=5)
        try:
            c.request("GET", "/")
            return c.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            c.close()

    def disturb(self, what, act, guest=None):
        entry = self.disturbances.begin(what, guest)
        act()
        for name in [guest] if guest else GUESTS:
            until(lambda: self.answers(name), "%s serves again after: %s" % (name, what), PATIENCE)
        self.disturbances.end(entry)
        self.done[what] += 1

    def kill(self, name):
        old = self.pids()[name]
        os.kill(old, signal.SIGKILL)
        until(lambda: self.pids_or_none().get(name, old) != old, "%s was replaced" % name, PATIENCE)

    def pids_or_none(self):
        try:
            return self.pids()
        except Failure:
            return {}

    def restart_gateway(self, how):
        def act():
            self.stop(how)
            until(lambda: not self.processes(), "all processes end with their supervisor", PATIENCE)
            self.start()
        return act

    def restart_aged(self):
        """As if it had run for long: the feed that the ledger reads at its start has more holds than it remembers."""
        self.stop()
        until(lambda: not self.processes(), "all processes have ended", PATIENCE)
        feed = os.path.join(self.directory, "state", "feed.json")
        with open(feed, "rb") as f:
            lines = f.readlines()
        alerts = [line for line in lines if b'"event_type":"alert"' in line.replace(b" ", b"")]
        require(alerts, "there was a hold before the first restart")
        with open(feed + ".new", "wb") as f:
            for n in range(AGED_HOLDS):
                f.write(alerts[n % len(alerts)])
            f.writelines(lines)
        owner = os.stat(feed)
        os.chown(feed + ".new", owner.st_uid, owner.st_gid)
        os.chmod(feed + ".new", owner.st_mode & 0o7777)
        os.rename(feed + ".new", feed)
        self.start()

    def kill_clone(self):
        """A seed or one of its clones, whatever there is."""
        live = {p for n, p in self.pids().items() if n.startswith("vmm")}
        names = {p: n for n, p in self.pids().items()}
        for vmm in self.dice.sample(sorted(live), len(live)):
            try:
                seeds = self.children(vmm)
                if not seeds:
                    continue
                victim = seed = self.dice.choice(seeds)
                below = self.children(seed)
                if below and self.dice.random() < 0.5:
                    victim = self.dice.choice(below)
                # What is held by this guest now may be lost with it: until these holds are over.
                entry = self.disturbances.begin("a clone was killed", names[vmm].split()[1])
                if victim == seed:
                    self.seeds_killed[vmm] += 1
                os.kill(victim, signal.SIGKILL)
            except OSError:
                continue
            held = {h.get("hold") for h in self.cli("holds")}
            until(lambda: not held & {h.get("hold") for h in self.cli("holds")}, "the holds of a killed clone end", PATIENCE)
            self.disturbances.end(entry)
            self.done["a clone was killed"] += 1
            return

    def pause(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.traffic.ending:
            time.sleep(0.2)

    def first_third(self):
        rounds = max(1, round(self.seconds / 600))
        share = self.seconds / 3 / (6 * rounds)
        for n in range(rounds):
            for what, act, guest in (
                    ("the gateway was restarted", self.restart_aged if n == 0 else self.restart_gateway(signal.SIGTERM), None),
                    ("the ledger was killed", lambda: self.kill("ledger"), None),
                    ("the dataplane was killed", lambda: self.kill("dataplane"), None),
                    ("the vmm of web was killed", lambda: self.kill("vmm web"), "web"),
                    ("the supervisor was killed", self.restart_gateway(signal.SIGKILL), None)):
                self.pause(share * 0.7)
                self.kill_clone()
                self.disturb(what, act, guest)

    def last_two_thirds(self, end):
        """Other is restarted and killed and clones die until shortly before the end; the rest stays."""
        def stop_and_start():
            self.cli("guest", "stop", "other")
            self.cli("guest", "start", "other")
        acts = [("the vmm of other was killed", lambda: self.kill("vmm other")),
                ("other was restarted", lambda: self.cli("guest", "restart", "other")),
                ("other was stopped and started", stop_and_start)]
        step = min(60, (end - time.monotonic()) / 8)
        n = 0
        while time.monotonic() + 1.5 * step < end and not self.traffic.ending:
            self.pause(step / 2)
            self.kill_clone()
            self.pause(step / 2)
            self.disturb(*acts[n % len(acts)], guest="other")
            n += 1

    # ---- the course ----------------------------------------------------------------------------------------------------

    def watch(self, work):
        """Measures, and says a line a minute, while work() goes on in a thread of its own."""
        failed = []

        def wrap():
            try:
                work()
            except BaseException as error:
                failed.append(error)
        thread = threading.Thread(target=wrap, daemon=True)
        thread.start()
        while thread.is_alive():
            begun = time.monotonic()
            if self.process.poll() is not None and not self.disturbances.excuse("", begun, begun):
                raise Failure("the gateway ended by itself with exit code %s" % self.process.returncode)
            got = self.measure()
            if got:
                self.latest = got
                if self.watch_from is not None:
                    for name in STEADY:
                        if name in got:
                            self.samples[name].append((time.monotonic() - self.watch_from, got[name]["own"]))
            if self.age() >= self.next_line:
                self.line()
            time.sleep(max(0.1, EVERY - (time.monotonic() - begun)))
        if failed:
            raise failed[0]

    def line(self):
        self.next_line = (int(self.age()) // 60 + 1) * 60
        c = self.traffic.count
        print("%5.0f s  requests %d plain, %d held, %d in a disturbance; attacks %d; disturbances %d; resident MiB %s; fds %s" % (
            self.age(), c["plain"], c["held"], c["excused"], c["attacks"], sum(self.done.values()),
            " ".join("%s %.1f" % (n, p["rss"] / 1024) for n, p in sorted(self.latest.items())),
            " ".join(str(p["fds"]) for _, p in sorted(self.latest.items()))), flush=True)

    def holds_told(self):
        """Numbers of the holds in the feed, in its order, and with how many others each was tried: {hold: (guest, group)}; 0: not
        at all."""
        told = {}
        for alert in self.alerts()[AGED_HOLDS:]:
            ours = alert["alert"]["context"]["foretaste"]
            told[ours["hold"]] = (ours["guest"], bool(ours.get("trials")) and ours.get("group", {}).get("size", 1))
        return told

    def probe(self):
        """One held request, alone: its hold's number is the newest of all."""
        for guest in GUESTS:
            if not self.traffic.request(guest, "/about.html?back=a;probe", "<html", "held"):
                raise Failure("a request without any other traffic was lost")

    def newest(self, told_before):
        told = until(lambda: (lambda t: len(t) >= len(told_before) + 2 and t)(self.holds_told()), "the probe's alerts are in the feed")
        return max(set(told) - set(told_before)), told

    def course(self):
        self.next_line = 60
        for name in GUESTS:
            until(lambda: self.answers(name), "%s serves" % name, PATIENCE)
        print("%5.0f s  two guests serve; traffic begins" % self.age(), flush=True)
        self.traffic.start()
        self.watch(self.first_third)
        first = {}
        self.watch(lambda: first.update(self.at_rest()))
        before, told = self.newest_probe()
        print("%5.0f s  at rest; from here on supervisor, ledger, dataplane and web's vmm are watched" % self.age(), flush=True)
        began, clones = time.monotonic(), first["vmm web"]["status"]["clones_forked"] + 1
        end = max(self.began + self.seconds, began + self.seconds / 3)
        self.watch_from = began
        self.traffic.resume()
        self.watch(lambda: (self.last_two_thirds(end), self.pause(end - time.monotonic())))
        self.watch_from = None
        last = {}
        self.watch(lambda: last.update(self.at_rest()))
        after, told = self.newest_probe()
        # Every hold between the two probes has its alert: the dataplane numbers them one by one.
        missing = sorted(set(range(before, after + 1)) - set(told))
        if missing:
            self.violation("%d of %d holds have no alert in the feed, the first is %d" % (len(missing), after - before, missing[0]))
        # Holds that were tried together had one clone.
        groups = [group for hold, (guest, group) in told.items() if guest == "web" and group and before < hold <= after]
        tried, needed = len(groups) - 1, math.floor(sum(1 / group for group in groups) - 0.999)
        forked = last["vmm web"]["status"]["clones_forked"] - clones
        if forked < needed:
            self.violation("web: %d holds were tried, in %d groups, but only %d clones forked" % (tried, needed, forked))
        for name in GUESTS:
            status, listing = self.listing(name)
            if status != 200 or '"name"' in listing:
                self.violation("the live guest %s was touched: %s %s" % (name, status, listing[:200]))
        self.compare(first, last)
        if self.scrapes < len(self.samples["ledger"]) / 2:
            self.violation("/metrics answered only %d of more than %d times" % (self.scrapes, len(self.samples["ledger"])))
        return first, last, {"holds": after - before, "missing": len(missing), "tried_web": tried, "forked_web": forked}

    def newest_probe(self):
        told = self.holds_told()
        self.probe()
        return self.newest(told)

    def listing(self, guest):
        import http.client
        c = http.client.HTTPConnection(GUESTS[guest], 80, timeout=60)
        try:
            c.request("GET", "/touched/")
            answer = c.getresponse()
            return answer.status, answer.read().decode("latin-1")
        finally:
            c.close()

    def compare(self, first, last):
        for name in STEADY:
            if first[name]["pid"] != last[name]["pid"]:
                self.violation("%s was replaced, and nobody did it here" % name)
            for what in ("fds", "threads", "rings"):
                if last[name][what] > first[name][what]:
                    self.violation("%s: %d %s at rest, %d of them at the first rest" %
                                   (name, last[name][what], what, first[name][what]))
        for what in ("sockets", "processes", "interfaces"):
            if last[what] > first[what]:
                self.violation("%d %s of the gateway at rest, %d at the first rest" % (last[what], what, first[what]))
        if last["processes"]:
            self.violation("%d processes at rest that belong to nobody" % last["processes"])
        self.growths = {name: growth(self.samples[name], ALLOWANCE) for name in STEADY}
        for name, found in self.growths.items():
            if found is None:
                self.violation("%s: too few measurements to say anything" % name)
            elif found.grows:
                self.violation("%s grows: by %.0f KiB in the last two thirds, by at least %.0f with confidence; %d allowed" %
                               (name, found.estimate, found.least, ALLOWANCE))

    # ---- what is left behind -------------------------------------------------------------------------------------------

    def leftovers(self):
        """After the gateway has stopped: processes, files, namespaces, control groups."""
        code = self.stop()
        if code != 0:
            self.violation("the gateway ended with exit code %s" % code)
        try:
            until(lambda: not self.processes(), "no process of the gateway is left", 20)
        except Failure:
            self.violation("processes left behind: %s" % self.processes())
        state = os.path.join(self.directory, "state") + "/"
        ours = {os.path.join(self.directory, name) for name in ("foretaste.yaml", "gateway.log")}
        found = []
        for top in ("/run", "/tmp", "/var/tmp", "/dev/shm"):
            for root, directories, files in os.walk(top):
                directories[:] = [d for d in directories if os.path.join(root, d) not in ("/run/soak", "/run/netns")]
                found += [path for path in (os.path.join(root, name) for name in files)
                          if path not in ours and not path.startswith(state)]
        if found:
            self.violation("%d files outside of the state directory: %s" % (len(found), found[:5]))
        extra = set(os.listdir("/run/netns")) - set(self.netns)
        if extra:
            self.violation("namespaces left behind: %s" % sorted(extra))
        groups = []
        for top in ("/sys/fs/cgroup",):
            for root, directories, _ in os.walk(top):
                groups += [os.path.join(root, d) for d in directories
                           if any(d.startswith("foretaste-%d-" % pid) for pid in self.pids_seen)]
        if groups:
            self.violation("control groups left behind: %s" % groups[:5])


def table(s, first, last):
    print("\n%-12s %21s %29s %11s %11s" % ("", "resident KiB", "data KiB growth, last 2/3", "fds", "threads"))
    print("%-12s %10s %10s %9s %9s %9s %5s %5s %5s %5s" % (
        "process", "first", "last", "estimate", "at least", "allowed", "first", "last", "first", "last"))
    for name in STEADY:
        g, a, b = s.growths[name], first[name], last[name]
        print("%-12s %10d %10d %9s %9s %9d %5d %5d %5d %5d" % (
            name, a["rss"], b["rss"], "%.0f" % g.estimate if g else "-", "%.0f" % g.least if g else "-", ALLOWANCE,
            a["fds"], b["fds"], a["threads"], b["threads"]))
    for what, count in sorted(s.done.items()):
        print("%-34s %d times" % (what, count))
    print("traffic: %s" % ", ".join("%d %s" % (n, k.replace("_", " ")) for k, n in s.traffic.count.items()))


def soak(argv):
    minutes = float(argv[0])
    first = last = None
    counts = {}
    s = Soak(minutes)

    def stop(*_):
        s.stopped = True
        print("%5.0f s  stopped" % s.age(), flush=True)
        sys.exit(143)
    signal.signal(signal.SIGTERM, stop)
    with s:
        try:
            first, last, counts = s.course()
            s.traffic.end()
            s.leftovers()
        except Failure as failure:
            s.violation(str(failure))
            s.show_logs()
        if first and last:
            table(s, first, last)
        result = {"minutes": round(s.age() / 60, 1), "ok": not s.reason_count, "violations": s.reason_count,
                  "reasons": s.reasons, "traffic": s.traffic.count, "disturbances": dict(s.done), **counts,
                  "processes": {name: {"rss_kib": [first[name]["rss"], last[name]["rss"]],
                                       "growth_kib": round(s.growths[name].estimate) if s.growths[name] else None,
                                       "growth_least_kib": round(s.growths[name].least) if s.growths[name] else None,
                                       "fds": [first[name]["fds"], last[name]["fds"]]}
                                for name in STEADY} if first and last else None}
        reason = s.reasons[0] if s.reasons else None
    if reason:
        print("FAILED: %d violations, the first: %s" % (s.reason_count, reason))
    print(json.dumps(result), flush=True)
    return 1 if reason else 0
