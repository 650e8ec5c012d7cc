#!/usr/bin/python3
"""The HTTP endpoint with the real foretaste-metrics, a real supervisor and scripted children: what Prometheus reads, what
health says when children fail, and clients that are slow, many, or send what is no request. Arguments: FORETASTED PEER
FORETASTE METRICS."""

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "gateway"))
from prometheus_client.parser import text_string_to_metric_families
from test_supervisor import FORETASTE, Failure, Gateway, PATIENCE, require, until

METRICS = os.path.abspath(sys.argv[4])
SOURCE = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
HISTOGRAM = {"counts": [0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3], "sum_ns": 123456789}
ANSWERS = {
    "dataplane.metrics": {
        "flows": 3, "records_lost": 0, "uplinks": {"wan": {"driver": "x", "missed": 4}},
        "guests": {"web": {"up": True, "flows": 3, "holds": 1, "clones": 1, "held_bytes": 1514, "events_lost": 0}},
        "services": {"http": {
            "guest": "web", "mode": "enforce", "holds": 1, "clones": 1, "held_bytes": 1514, "bypass": False,
            "limits": {"holds": 1}, "exceptions": {"timeout": 2}, "verdicts": {"clean": 6, "malicious": 0},
            "dispositions": {"released": 5, "dropped": 1}, "hold_time": HISTOGRAM}},
        "counters": {"reasons": {"pass.inspected": 9, "drop.runt": 1}, "checksums_completed": 1, "urgent_cleared": 0,
                     "guests": {"web": {"reasons": {"pass.inspected": 9}}}}},
    "vmm.status": {"instructions": 1000, "rx_frames": 1, "tx_frames": 2, "tx_full": 0, "rx_dropped": 0, "clones": 1,
                   "clones_forked": 6, "clones_refused": 0, "clones_died": 0, "last_pause_ns": 1, "pauses": HISTOGRAM},
    "ledger.status": {"feed": {"lines": 12, "lost": 0, "waiting": 0, "sinks": {
        "socket": {"connected": True, "lines": 12, "lost": 0, "waiting": 0, "again": 0},
        "syslog": {"connected": True, "lines": 12, "lost": 0, "waiting": 0, "shortened": 0}}}},
}


class Monitored(Gateway):
    """A gateway with a foretaste-metrics; its socket is a unix one unless a port is given."""

    def __init__(self, port=None, **modes):
        super().__init__(**modes)
        os.symlink(METRICS, self.path("foretaste-metrics"))
        self.port = port
        self.socket = self.path("metrics.sock")
        self.config["canary"] = {"every": "0 s"}
        self.config["metrics"] = {"listen": "127.0.0.1:%d" % port if port else self.socket}
        for name, answer in ANSWERS.items():
            self.answers(name, answer)

    def answers(self, name, answer):
        path = self.path("foretaste-%s.json" % name)
        with open(path + ".new", "w") as f:
            json.dump(answer, f)
        os.rename(path + ".new", path)

    def connect(self):
        if self.port:
            return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(PATIENCE)
        s.connect(self.socket)
        return s

    def get(self, path, method="GET"):
        """(status, headers, body)"""
        connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
        connection.sock = self.connect()
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, answer.headers, body

    def health(self, path):
        status, headers, body = self.get(path)
        require(headers["Content-Type"] == "application/json", headers["Content-Type"])
        return status, json.loads(body)

    def metrics_pid(self):
        return self.status()["processes"]["metrics"]["pid"]


def strict(text):
    """The format as its specification has it, besides what the client library's parser insists on."""
    require(text.endswith("\n"), "the last line has no end")
    done, current = set(), None
    for line in text.splitlines():
        if line.startswith("# "):
            kind, name, rest = line[2:].split(" ", 2)
            require(kind in ("HELP", "TYPE") and rest, line)
            if name != current:
                require(kind == "HELP" and name not in done, "the lines of %s are not together" % name)
                done.add(name)
                current = name
            elif kind == "TYPE":
                require(rest in ("counter", "gauge", "histogram"), line)
                require((rest == "counter") == name.endswith("_total"), "the type of " + line)
            continue
        match = re.match(r'([a-z_:][a-z0-9_:]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)*)\})? (\S+)$', line)
        require(match, "no sample: " + line)
        require(re.sub("_(bucket|sum|count)$", "", match[1]) == current or match[1] == current, "%s below %s" % (line, current))
        float(match[3])
    families = list(text_string_to_metric_families(text))
    samples = [(s.name, tuple(sorted(s.labels.items()))) for family in families for s in family.samples]
    require(len(samples) == len(set(samples)), "a sample comes twice")
    return families


def lint(text):
    """Prometheus' own opinion, where it is installed."""
    promtool = shutil.which("promtool")
    if promtool:
        done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True)
        require(done.returncode == 0 and not done.stderr, "promtool: %d %s" % (done.returncode, done.stderr))


def values(families):
    return {(s.name,) + tuple(v for _, v in sorted(s.labels.items())): s.value for f in families for s in f.samples}


def prometheus_reads_it():
    with Monitored() as g:
        os.makedirs(g.path("state/seeds"))
        for name, size in (("web-7", 300), ("web-1000008", 400), (".web-9.new", 5000)):
            with open(g.path("state/seeds/" + name), "wb") as f:
                f.truncate(size)
        g.start()
        g.up()
        mode = os.stat(g.socket)
        require(stat.S_IMODE(mode.st_mode) == 0o660, "the socket's mode is %o" % mode.st_mode)
        status, headers, text = g.get("/metrics")
        require(status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4"), "%s %s" % (status, headers))
        families = strict(text)
        lint(text)
        found = values(families)
        require(found[("foretaste_packets_total", "web", "pass.inspected")] == 9, "packets of the guest")
        require(found[("foretaste_packets_total", "", "drop.runt")] == 1, "packets of none")
        require(found[("foretaste_hold_seconds_count", "web", "http")] == 6, "the histogram")
        require([found[("foretaste_seeds_%s_total" % what, "web")] for what in ("kept", "skipped", "failed")] == [0, 0, 0], "seeds that were kept")
        require([found[("foretaste_kept_seeds" + what,)] for what in ("", "_bytes", "_quota_bytes", "_removed_total")] == [2, 700, 1 << 30, 0],
                "kept seeds that there are: %s" % {key: value for key, value in found.items() if "seeds" in key[0]})
        require(found[("foretaste_guest_up", "web")] == found[("foretaste_process_up", "metrics")] == 1, "what is up")
        with open(os.path.join(SOURCE, "src", "base", "reason.h")) as f:
            reasons = set(re.findall(r'^\s*X\(\w+, "([^"]+)"', f.read(), re.M))
        exposed = {s.labels["reason"] for f in families if f.name == "foretaste_packets" for s in f.samples}
        require(len(reasons) > 30 and exposed == reasons, "reasons in one place only: %s" % (exposed ^ reasons))
        # The command line prints the same.
        said = subprocess.run([FORETASTE, "metrics", "--control", g.control], capture_output=True, text=True, check=True).stdout
        names = lambda lines: [line.rsplit(" ", 1)[0] for line in lines.splitlines()]
        require(names(said) == names(text), "foretaste metrics and /metrics differ")


def the_board_shows_what_there_is():
    """deploy/grafana: a model that Grafana takes, in which every metric and label exists."""
    with open(os.path.join(SOURCE, "deploy", "grafana", "foretaste.json")) as f:
        board = json.load(f)
    with Monitored() as g:
        g.config["canary"]["every"] = "1 s"
        g.answers("dataplane.say", [{"op": "canary", "service": "http", "result": "ok", "why": "", "took_ns": 5}])
        g.start()
        g.up()
        require(g.get("/metrics")[0] == 200, "no metrics")
        labels = {}
        for family in strict(g.get("/metrics")[2]):
            for s in family.samples:
                labels.setdefault(s.name, set()).update(s.labels)
    panels = board["panels"]
    require(len({p["id"] for p in panels}) == len(panels), "two panels have one id")
    cells = set()
    for p in panels:
        at = p["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        require(at["x"] + at["w"] <= 24 and not own & cells, "%s lies on another panel" % p["title"])
        cells |= own
    variables = {v["name"] for v in board["templating"]["list"]}
    asked = [(p["title"], t["expr"], t["legendFormat"]) for p in panels for t in p.get("targets", [])]
    asked += [(v["name"], v["query"]["query"], "") for v in board["templating"]["list"] if v["type"] == "query"]
    require(len(asked) > 25, "%d questions" % len(asked))
    used = set()
    for title, expression, legend in asked:
        names = re.findall(r"foretaste_[a-z_]+", expression)
        require(names, "%s asks for nothing of ours: %s" % (title, expression))
        for name in names:
            used.add(name)
            require(name in labels, "%s asks for %s, which nobody exports" % (title, name))
            # "instance" is Prometheus' own
            wanted = set(re.findall(r'([a-z_]+)(?:=~|=)"', expression)) | set(re.findall(r"{{(\w+)}}", legend)) - {"instance"}
            wanted -= {"instance"}
            require(wanted <= labels[name], "%s: %s has no label %s" % (title, name, wanted - labels[name]))
        asks = set(re.findall(r"\$(\w+)", expression)) - {"__rate_interval"}
        require(asks <= variables, "%s uses variables that there are not: %s" % (title, asks))
        require(expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}"), expression)


def a_loopback_port_works_too():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Monitored(port=port) as g:
        g.start()
        g.up()
        require(g.get("/healthz")[0] == 200, "no health")
        # Whoever comes second is told so, by name.
        with Monitored(port=port) as second:
            code, said = second.run()
            require(code == 69 and "127.0.0.1:%d" % port in said and "in use" in said, "%d %s" % (code, said))


def health_says_who_fails():
    with Monitored() as g:
        g.start()
        g.up()
        require(g.health("/healthz") == (200, {"status": "ok"}), "not healthy: %s" % (g.health("/healthz"),))
        require(g.health("/readyz") == (200, {"status": "ok"}), "not ready: %s" % (g.health("/readyz"),))
        # A child that is there, and does nothing any more.
        pid = g.pid("dataplane")
        os.kill(pid, signal.SIGSTOP)
        status, said = g.health("/healthz")
        require(status == 503 and "the dataplane process does not answer" in said["problems"], "%s %s" % (status, said))
        status, _, text = g.get("/metrics")
        found = values(strict(text))
        require(status == 200 and found[("foretaste_process_up", "dataplane")] == 0 and found[("foretaste_healthy",)] == 0,
                "metrics without a dataplane")
        require(not any(key[0] == "foretaste_packets_total" for key in found), "packets of nobody")
        os.kill(pid, signal.SIGCONT)
        until(lambda: g.health("/readyz")[0] == 200, "it is ready again")
        # One that cannot be started again.
        g.mode("vmm", "die")
        os.kill(g.pid("vmm"), signal.SIGKILL)
        until(lambda: g.health("/readyz")[0] == 503, "a guest is missing")
        status, said = g.health("/readyz")
        require(any("guest web is" in text for text in said["problems"]), said)


def the_endpoint_is_replaced_and_never_takes_the_gateway_along():
    with Monitored() as g:
        g.start()
        g.up()
        for _ in range(3):
            pid = g.metrics_pid()
            os.kill(pid, signal.SIGKILL)
            until(lambda: g.metrics_pid() not in (0, pid) and g.status()["processes"]["metrics"]["state"] == "ready",
                  "the metrics process is replaced")
            require(g.get("/healthz")[0] == 200, "not healthy")
        require(g.process.poll() is None, "the gateway ended")


def its_process_has_little():
    with Monitored() as g:
        g.start()
        g.up()
        g.get("/metrics")
        pid = g.metrics_pid()
        with open("/proc/%d/status" % pid) as f:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        require(set(status["Uid"].split()) == {"64003"}, "its uid is " + status["Uid"])
        require(int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, "it has capabilities")
        require(status["NoNewPrivs"] == "1" and status["Seccomp"] == "2", "it is not confined")
        require(status["Threads"] == "1", "it has threads")
        kinds = [os.readlink("/proc/%d/fd/%s" % (pid, fd)) for fd in os.listdir("/proc/%d/fd" % pid)]
        files = [k for k in kinds if k.startswith("/") and k != "/dev/null"]
        require(not files, "it has files open: %s" % files)


def the_control_connection_is_good_for_one_question():
    """What a broken metrics process could ask: nothing else. Its end of the connection is played by a peer in its place."""
    with Gateway() as g:
        os.symlink(os.path.join(os.path.dirname(os.path.abspath(__file__)), "curious.py"), g.path("foretaste-metrics"))
        g.config["metrics"] = {"listen": g.path("metrics.sock")}
        g.start()
        g.up()
        lines = until(lambda: os.path.exists(g.path("curious")) and open(g.path("curious")).read(), "it has asked").splitlines()
        answers = {a["id"]: a for a in map(json.loads, lines) if a["id"] is not None}
        refused = [a for a in map(json.loads, lines) if a["id"] is None]
        require(set(answers) == {"good"} and "processes" in answers["good"]["result"], "answers: %s" % lines)
        require(len(refused) == 3 and all(a["error"] == "this connection may not ask that" for a in refused), lines)
        require(g.state("vmm") == "ready", "the guest was stopped")


# ---- clients that are no monitoring ---------------------------------------------------------------------------------

def other_requests_are_refused():
    with Monitored() as g:
        g.start()
        g.up()
        status, headers, _ = g.get("/metrics", "POST")
        require(status == 405 and headers["Allow"] == "GET, HEAD", "POST: %d" % status)
        require(g.get("/")[0] == 404 and g.get("/metrics/../../etc/passwd")[0] == 404, "paths")
        status, headers, body = g.get("/metrics", "HEAD")
        require(status == 200 and body == "" and int(headers["Content-Length"]) > 1000, "HEAD: %d %s" % (status, headers))
        with g.connect() as s:  # a GET with a body
            s.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
            require(s.recv(100).startswith(b"HTTP/1.1 200"), "a GET with a body")
        with g.connect() as s:  # a head without an end
            try:
                s.sendall(b"GET /healthz HTTP/1.1\r\nX: " + b"a" * (1 << 20))
                answer = s.recv(100)
            except OSError:
                answer = b""
            require(not answer.startswith(b"HTTP/1.1 2"), "a head of a megabyte is taken: %s" % answer)
        require(g.get("/healthz")[0] == 200, "it has died of it")


def garbage_costs_nobody_anything():
    chance = random.Random(9469)
    seeds = [b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /readyz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
             b"POST /metrics HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"\x16\x03\x01" + bytes(500),
             b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET http://x/metrics?a=%00%ff HTTP/1.1\r\nHost:\r\n\r\n"]
    with Monitored() as g:
        g.start()
        g.up()
        pid = g.metrics_pid()
        for i in range(400):
            data = bytearray(chance.choice(seeds) * chance.randint(1, 3))
            for _ in range(chance.randint(0, 8)):
                at = chance.randrange(len(data))
                data[at:at + chance.randint(0, 3)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 4)))
                data = data or bytearray(b" ")
            with g.connect() as s:
                try:
                    s.sendall(data)
                    if chance.random() < 0.5:
                        s.shutdown(socket.SHUT_WR)
                        while s.recv(65536):
                            pass
                except OSError:
                    pass
        require(g.get("/metrics")[0] == 200 and g.metrics_pid() == pid, "it did not survive the garbage")


def slow_and_many_clients_are_cut():
    with Monitored() as g:
        g.start()
        g.up()
        slow = [g.connect() for _ in range(40)]  # more than it has places for
        for s in slow:
            s.setblocking(False)
        end, left = time.monotonic() + PATIENCE, list(slow)
        while left and time.monotonic() < end:
            for s in list(left):
                try:
                    s.send(b"G")  # a byte now and then: no time-out of inactivity ever fires
                    if s.recv(1) == b"":
                        left.remove(s)
                except BlockingIOError:
                    pass
                except OSError:
                    left.remove(s)
            time.sleep(0.2)
        require(not left, "%d connections that never ask are kept" % len(left))
        for s in slow:
            s.close()
        require(g.get("/healthz")[0] == 200, "no place is free again")
        # Many at once are all served, though each waits for an answer of the supervisor.
        statuses = []
        threads = [threading.Thread(target=lambda: statuses.append(g.get("/metrics")[0])) for _ in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(PATIENCE)
        require(statuses == [200] * 24, "of 24 at once: %s" % statuses)


def readiness_asks_for_the_self_test():
    with Monitored() as g:
        g.config["canary"]["every"] = "1 s"
        g.start()
        g.up()

        def result(word, why=""):
            g.answers("dataplane.say", [{"op": "canary", "service": "http", "result": word, "why": why, "took_ns": 5}])
            until(lambda: g.status() and not os.path.exists(g.path("foretaste-dataplane.say.json")), "it has been said")
            return g.health("/readyz")

        def metric(*key):
            return values(strict(g.get("/metrics")[2]))[key]

        def told(kind):
            return [r["text"] for r in g.records() if r.get("type") == kind]

        require(g.health("/readyz")[0] == 503, "ready before the first self-test")
        require(result("ok") == (200, {"status": "ok"}), "not ready: %s" % (g.health("/readyz"),))
        require(metric("foretaste_canary_ok", "web", "http") == metric("foretaste_ready") == 1, "the metrics")
        status, said = result("failed", "it was not held")
        require(status == 503 and said["problems"] == ["self-test of service http: it was not held"], said)
        require(g.health("/healthz")[0] == 200, "its processes are well")
        require(metric("foretaste_canary_ok", "web", "http") == 0 and
                metric("foretaste_canary_runs_total", "web", "failed", "http") == 1, "the metrics")
        until(lambda: told("self-test-failed"), "the feed has it")
        require("it was not held" in told("self-test-failed")[0], told("self-test-failed"))
        require(result("ok")[0] == 200, "it passes again")
        until(lambda: told("self-test-passed"), "the feed has that, too")
        # A dataplane that dies takes what it had found with it.
        g.kill("dataplane")
        require(g.health("/readyz")[0] == 503, "ready on a dead dataplane's word")


def a_supervisor_that_hangs_is_said():
    with Monitored() as g:
        g.start()
        g.up()
        g.process.send_signal(signal.SIGSTOP)
        try:
            status, said = g.health("/healthz")
        finally:
            g.process.send_signal(signal.SIGCONT)
        require(status == 503 and said["problems"] == ["the supervisor does not answer"], "%s %s" % (status, said))
        until(lambda: g.health("/healthz")[0] == 200, "it is healthy again")


def main(tests):
    failed = 0
    for test in tests:
        began = time.monotonic()
        try:
            test()
            print("ok   %s (%.1f s)" % (test.__name__.replace("_", " "), time.monotonic() - began), flush=True)
        except Failure as failure:
            failed += 1
            print("FAIL %s: %s" % (test.__name__.replace("_", " "), failure), flush=True)
    print("%d passed, %d failed" % (len(tests) - failed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main([prometheus_reads_it, the_board_shows_what_there_is, a_loopback_port_works_too, health_says_who_fails,
                   the_endpoint_is_replaced_and_never_takes_the_gateway_along, its_process_has_little,
                   the_control_connection_is_good_for_one_question, other_requests_are_refused,
                   garbage_costs_nobody_anything, slow_and_many_clients_are_cut, readiness_asks_for_the_self_test, a_supervisor_that_hangs_is_said]))
