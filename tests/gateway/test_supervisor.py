#!/usr/bin/python3
"""The supervisor with children that die, lie, fall silent or talk too much. Arguments: FORETASTED PEER (tests/gateway/peer.c),
FORETASTE. Needs root: each child gets files and a uid of its own."""

import concurrent.futures
import ctypes
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

FORETASTED, PEER, FORETASTE = map(os.path.abspath, sys.argv[1:4])
LEDGER = os.path.join(os.path.dirname(FORETASTED), "..", "log", "foretaste-ledger")
SOURCE = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
NAMES = ("ledger", "dataplane", "vmm")
LIBC, PR_SET_PDEATHSIG = ctypes.CDLL(None), 1  # a gateway does not outlive its test
SERVICE = 64990  # in place of the user of the unit
PATIENCE = 60  # seconds until a test says that something does not happen; never a measure of speed


class Failure(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Failure(text)


def until(condition, what):
    end = time.monotonic() + PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("does not happen: " + what)
        time.sleep(0.01)


def as_service(groups):
    """setpriv and its arguments: who and what a process of the unit is, from the unit itself."""
    with open(os.path.join(SOURCE, "deploy", "systemd", "foretaste.service.in")) as f:
        unit = f.read()
    require(re.search("^UMask=0077$", unit, re.M) and re.search("^User=foretaste$", unit, re.M), "the unit is another one")
    kept = re.search("^AmbientCapabilities=(.*)$", unit, re.M)[1]
    require(re.search("^CapabilityBoundingSet=(.*)$", unit, re.M)[1] == kept, "what the unit bounds is not what it gives")
    capabilities = ",".join(["-all"] + [name.lower().replace("cap_", "+") for name in kept.split()])
    return ["setpriv", "--reuid=%d" % SERVICE, "--regid=%d" % SERVICE,
            "--groups=" + ",".join(map(str, groups)) if groups else "--clear-groups", "--no-new-privs",
            "--pdeathsig=TERM", "--bounding-set=" + capabilities, "--inh-caps=" + capabilities, "--ambient-caps=" + capabilities]


class Gateway:
    """A supervisor in a directory of its own; what it says goes to a file."""

    def __init__(self, **modes):
        self.directory = tempfile.mkdtemp(prefix="foretaste-gateway-")
        os.chmod(self.directory, 0o755)
        self.control = self.path("control.sock")
        for name in NAMES:
            os.symlink(PEER, self.path("foretaste-" + name))
            self.mode(name, modes.get(name, ""))
        with open(self.path("vmlinuz"), "w") as f:
            f.write("kernel")
        rules = os.path.join(SOURCE, "config", "rules")
        self.config = {
            "state": self.path("state"), "control": self.control, "uplink": {"port": "none"},
            "guests": {"web": {"kernel": "vmlinuz", "mac": "52:54:00:00:02:0f", "address": "10.0.2.15"}},
            "services": {"http": {"guest": "web", "port": 80, "rules": [rules + "/web.yaml"]}},
            "verdict_rules": rules + "/verdict.yaml", "correlation_rules": rules + "/correlation.yaml",
        }
        self.process = None

    def path(self, name):
        return os.path.join(self.directory, name)

    def mode(self, name, mode):
        with open(self.path("foretaste-" + name + ".mode"), "w") as f:
            f.write(mode)

    def start(self, *arguments, user=None, groups=None):
        """As user, or, when groups are given, as the unit does: as SERVICE with these besides and the unit's capabilities."""
        with open(self.path("t.yaml"), "w") as f:
            json.dump(self.config, f, indent=1)
        environment = dict(os.environ, FORETASTE_LIBEXEC=self.directory, FORETASTE_PEERS=self.directory, SECRET="x")
        with open(self.path("said"), "ab") as said:
            command = [FORETASTED, "--config", self.path("t.yaml"), *arguments]
            if groups is not None:
                os.chown(self.directory, SERVICE, SERVICE)
                command = as_service(groups) + command
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, env=environment,
                                            cwd=self.directory, user=user, umask=-1 if groups is None else 0o077,
                                            preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM))
        return self.process

    def run(self, *arguments, user=None):
        """For a start that fails: (exit code, what it said)."""
        code = self.start(*arguments, user=user).wait(PATIENCE)
        return code, self.said()

    def said(self):
        with open(self.path("said"), "rb") as f:
            return f.read().decode()

    def log(self, name):
        try:
            with open(self.path("foretaste-" + name + ".log")) as f:
                return [json.loads(line) for line in f if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def ops(self, name, op):
        return [x for x in self.log(name) if x.get("message", {}).get("op") == op]

    def records(self):
        return [x for x in self.log("ledger") if x.get("record")]

    def ask(self, **request):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(self.control)
            s.sendall(json.dumps(dict(request, id="q")).encode() + b"\n")
            return json.loads(s.makefile().readline())

    def status(self):
        try:
            return self.ask(what="status").get("result", {})
        except OSError:
            return {}

    def up(self):
        def up():
            status = self.status()
            return status.get("state") == "running" and status.get("guests", {}).get("web", {}).get("state") == "up"

        until(lambda: self.process.poll() is not None or up(),
              "the gateway is up")
        require(self.process.poll() is None, "the gateway ended %s: " % self.process.returncode + self.said())
        return self

    def pid(self, name):
        return self.status()["processes"][name if name != "vmm" else "vmm web"]["pid"]

    def add_guest(self, name, **settings):
        index = len(self.config["guests"]) + 15
        self.config["guests"][name] = dict({"kernel": "vmlinuz", "mac": "52:54:00:00:02:%02x" % index,
                                            "address": "10.0.2.%d" % index}, **settings)

    def up_as(self, name, other_than=0):
        """The process of a guest that is up, when it is another one than before."""
        def look():
            status = self.status()
            pid = status.get("processes", {}).get("vmm " + name, {}).get("pid", 0)
            return status.get("guests", {}).get(name, {}).get("state") == "up" and pid != other_than and pid
        return until(look, "%s is up as another process than %d" % (name, other_than))

    def guest(self, name):
        return self.status().get("guests", {}).get(name, {}).get("state")

    def cli(self, *arguments):
        got = subprocess.run([FORETASTE, *arguments, "--control", self.control], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             text=True, timeout=2 * PATIENCE)
        return got.returncode, got.stdout, got.stderr

    def kill(self, name):
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.pid(name) not in (0, pid) and self.state(name) == "ready", name + " is replaced")

    def state(self, name):
        return self.status()["processes"][name if name != "vmm" else "vmm web"]["state"]

    def children(self):
        """Our peers that are alive: they have our directory in their environment."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open("/proc/%s/environ" % entry, "rb") as f:
                    variables = f.read().split(b"\0")
                if b"FORETASTE_PEERS=" + self.directory.encode() in variables and int(entry) != self.process.pid:
                    found.append(int(entry))
            except OSError:
                pass
        return found

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failure("the supervisor does not stop: " + self.said()[-1000:])

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if kind:
                print(self.said()[-3000:], file=sys.stderr)
            if self.process:
                self.stop()
                until(lambda: not self.children(), "no process is left behind")
                if kind is None:
                    require(not os.path.exists(self.control), "the control socket is left behind")
        finally:
            shutil.rmtree(self.directory)


def each_child_gets_what_it_needs_and_nothing_else():
    with Gateway() as g:
        g.start()
        g.up()
        configs = {name: g.ops(name, "config") for name in NAMES}
        for index, (name, fds) in enumerate((("ledger", 5), ("dataplane", 2), ("vmm", 4))):
            require(len(configs[name]) == 1 and configs[name][0]["fds"] == fds, "descriptors of " + name)
            message = configs[name][0]["message"]
            require(message["uid"] == message["gid"] == 64000 + index, "uid of " + name)
        part = configs["dataplane"][0]["message"]["config"]
        require(part["services"]["http"]["rules"] == [r["sid"] for r in part["rules"]], "the service's rules")
        require("verdict_rules" in part and part["clone"]["max"] == 4, "rules and budgets")
        require(configs["vmm"][0]["message"]["config"]["has_disk"] is False, "what the guest has not")
        for name in ("dataplane", "vmm"):
            require([x["fds"] for x in g.ops(name, "link")] == [4], "one link for " + name)
        for pid in g.children():
            with open("/proc/%d/environ" % pid, "rb") as f:
                require(b"SECRET" not in f.read(), "a child sees the operator's environment")
            names = sorted(int(fd) for fd in os.listdir("/proc/%d/fd" % pid))
            require(names[:4] == [0, 1, 2, 3] and len(names) <= 10, "descriptors of a child: %s" % names)
            require(os.getsid(pid) == pid, "a child shares the terminal's session")
        st = os.stat(g.path("state/quarantine"))
        require(st.st_gid == 64000 and st.st_mode & 0o777 == 0o770, "the quarantine is for the ledger")
        require(os.stat(g.control).st_mode & 0o777 == 0o600, "the control socket is root's alone")


def a_dead_vmm_is_replaced_and_declared():
    with Gateway() as g:
        g.start()
        g.up()
        dataplane = g.pid("dataplane")
        g.kill("vmm")
        g.up()
        require([x["message"]["guest"] for x in g.ops("dataplane", "guest-down")] == ["web"], "guest-down is told")
        require(len(g.ops("vmm", "link")) == len(g.ops("dataplane", "link")) == 2, "a new link for both")
        require(g.pid("dataplane") == dataplane, "the dataplane went on")
        until(lambda: [r["type"] for r in g.records()] == ["start", "guest-up", "guest-down", "restart", "guest-up"],
              "the feed is told in order: %s" % [r["type"] for r in g.records()])
        require("signal 9" in g.records()[2]["text"], "why it died")


def a_dead_dataplane_is_replaced_and_linked():
    with Gateway() as g:
        g.start()
        g.up()
        vmm = g.pid("vmm")
        g.kill("dataplane")
        until(lambda: len(g.ops("dataplane", "link")) == 2 and len(g.ops("vmm", "link")) == 2, "a new link for both")
        require(g.pid("vmm") == vmm, "the guest went on")
        require(g.ops("dataplane", "link")[1]["pid"] == g.pid("dataplane"), "the new one has it")


def records_wait_for_a_new_ledger():
    with Gateway() as g:
        g.start()
        g.up()
        ledger = g.pid("ledger")
        os.kill(ledger, signal.SIGSTOP)
        g.kill("vmm")  # its records are written while the ledger does not read
        os.kill(ledger, signal.SIGKILL)
        until(lambda: {"guest-down", "restart"} <= {r["type"] for r in g.records()}, "no record is lost")
        until(lambda: any(r["type"] == "restart" and r.get("process") == "ledger" for r in g.records()), "and its own death")


def a_start_that_fails_says_why_and_leaves_nothing():
    for name in NAMES:
        with Gateway(**{name: "fail"}) as g:
            code, said = g.run()
            require(code == 66, "%s failed, exit code %d" % (name, code))
            require(said.splitlines()[-1] == "foretasted: there is no\\x1b such port", "one clear sentence: " + said)
        with Gateway(**{name: "die"}) as g:
            code, said = g.run()
            require(code == 70 and "ended with status 3 before it was ready" in said, "%d %s" % (code, said))
    with Gateway() as g:
        os.unlink(g.path("foretaste-vmm"))
        code, said = g.run()
        require(code == 66 and "there is no foretaste-vmm in" in said, "%d %s" % (code, said))


def a_killed_supervisor_leaves_nothing_and_its_socket_is_taken_over():
    with Gateway(dataplane="stubborn") as g:
        g.start()
        g.up()
        require(len(g.children()) == 3, "three children")
        g.stop(signal.SIGKILL)
        until(lambda: not g.children(), "the children end with it")
        require(os.path.exists(g.control), "it had no time to remove its socket")
        g.mode("dataplane", "")
        g.start()
        g.up()


def what_is_in_use_is_said():
    with Gateway() as g, Gateway() as other:
        g.start()
        g.up()
        other.config["state"] = g.config["state"]
        code, said = other.run()
        require(code == 69 and "is in use by another gateway" in said, "state: %d %s" % (code, said))
        other.config["state"] = other.path("state")
        other.config["control"] = g.control
        code, said = other.run()
        require(code == 69 and "is in use: another gateway answers there" in said, "socket: %d %s" % (code, said))
        require(g.status()["state"] == "running", "the first one suffered")


def what_is_missing_or_forbidden_is_said():
    def case(change, code, pattern, **kw):
        with Gateway() as g:
            change(g)
            got, said = g.run(**kw)
            if os.path.exists(g.control):
                os.rmdir(g.control) if os.path.isdir(g.control) else os.unlink(g.control)
            require(got == code and re.search(pattern, said.splitlines()[-1]), "exit %d: %s" % (got, said))
            require(not g.log("ledger") or not g.children(), "left behind")

    guest = lambda **kw: lambda g: g.config["guests"]["web"].update(kw)
    case(guest(kernel="nowhere"), 66, r"t\.yaml:9:\d+: kernel: cannot open .*/nowhere: No such file")
    case(guest(disk="nowhere"), 66, r"t\.yaml:12:\d+: disk: cannot open .*/nowhere: No such file")
    case(lambda g: os.truncate(g.path("vmlinuz"), 0), 78, r"t\.yaml:9:\d+: kernel: .* is empty")
    case(lambda g: (os.unlink(g.path("vmlinuz")), os.mkfifo(g.path("vmlinuz"))), 78, r"kernel: .* is no file")
    case(lambda g: os.makedirs(g.path("state/feed.json")), 66, r"feed: cannot open .*: Is a directory")
    case(lambda g: (os.mkdir(g.path("state")), os.symlink("/etc/passwd", g.path("state/feed.json"))), 71, "feed: cannot open")
    case(lambda g: os.makedirs(g.path("state/quarantine")), 77, "quarantine belongs to uid 0 and gid 0, but the ledger runs as uid and gid 64000")
    case(lambda g: open(g.path("state"), "w").close(), 66, r"t\.yaml:2:\d+: .*state.*: (Not a directory|File exists)")
    case(lambda g: open(g.control, "w").close(), 71, "exists and is no socket")
    case(lambda g: None, 77, "has to be started by root", user=65534)


def a_stop_is_in_order_and_complete():
    with Gateway() as g:
        g.start()
        g.up()
        require(g.stop() == 0, "exit code of an orderly stop")
        require(all(len(g.ops(name, "stop")) == 1 for name in NAMES), "each is told")
        require(g.records()[-1]["type"] == "stop", "the last record is written down")
        stat = [os.stat(g.path("foretaste-%s.log" % n)).st_mtime_ns for n in ("dataplane", "vmm", "ledger")]
        require(stat == sorted(stat), "dataplane, then guests, then the ledger")
    with Gateway(vmm="stubborn") as g:
        g.start()
        g.up()
        require(g.stop() == 0 and "did not stop in time, it is killed" in g.said(), "a child that does not stop is killed")


def it_needs_no_root():
    """As its unit starts it: each child has another uid than the supervisor, and is ended all the same."""
    with Gateway(dataplane="confined stubborn", vmm="confined") as g:
        os.remove(g.path("foretaste-ledger"))
        os.symlink(LEDGER, g.path("foretaste-ledger"))
        g.start(groups=[])
        g.up()
        for index, name in enumerate(NAMES):
            with open("/proc/%d/status" % g.pid(name)) as f:
                status = f.read()
            require(re.search(r"^Uid:\t(\d+)\t\1\t\1\t\1$", status, re.M)[1] == str(64000 + index), name + " has another uid")
            require(re.search(r"^CapPrm:\t0+$", status, re.M) and re.search(r"^CapBnd:\t0+$", status, re.M), name + " has capabilities")
        for name in ("quarantine", "ledger"):
            st = os.stat(g.path("state/" + name))
            require((st.st_uid, st.st_gid, st.st_mode & 0o777) == (SERVICE, 64000, 0o770), "%s is for the ledger: %s" % (name, st))
        require(os.stat(g.path("state/feed.json")).st_mode & 0o777 == 0o640, "the feed is not for the group")
        g.kill("vmm")
        require(g.stop() == 0 and "the dataplane process did not stop in time, it is killed" in g.said(), g.said())
        with open(g.path("state/feed.json")) as f:
            require("the gateway stops" in f.read(), "the ledger wrote it down")
        os.chown(g.path("state/quarantine"), 64000, 64000)
        os.chmod(g.path("state/quarantine"), 0o700)  # as an older one has left it
        g.mode("dataplane", "confined")
        g.start(groups=[]).wait(PATIENCE)
        require("/quarantine belongs to uid 64000 and gid 64000, but the ledger runs" in g.said(), g.said())


def a_shipper_of_another_user_lets_the_gateway_in_by_a_group():
    with Gateway(ledger="confined") as g:
        path, group = g.path("shipper.sock"), SERVICE + 2
        g.config["feed"] = {"socket": path}
        shipper = Shipper(path)
        os.chown(path, SERVICE + 1, group)
        os.chmod(path, 0o660)
        g.start(groups=[])
        g.up()
        until(lambda: "feed.socket: cannot connect to %s: Permission denied: it is for uid %d and gid %d (mode 0660), the gateway "
              "has uid %d" % (path, SERVICE + 1, group, SERVICE) in g.said(), "it is said: " + g.said())
        g.stop()
        g.start(groups=[group])
        g.up()
        shipper.accept()
        until(lambda: g.ops("ledger", "sink")[-1]["fds"] == 1, "the ledger has the connection")
        g.stop()
        shipper.hang_up()
        shipper.close()


def lies_cost_the_liar_alone():
    for mode in ("garbage", "huge"):
        with Gateway(vmm=mode) as g:
            g.start()
            until(lambda: "sent what is no message" in g.said(), "it is noticed")
            g.mode("vmm", "")
            g.up()
            require(g.status()["processes"]["dataplane"]["restarts"] == 0, "the dataplane suffered")
            require("\x1b" not in g.said(), "an escape sequence reached the log")
    with Gateway(vmm="hangup") as g:
        g.start()
        until(lambda: "has no channel any more and goes on, it is killed" in g.said(), "a child that hangs up is replaced")
        g.mode("vmm", "")
        g.up()
    with Gateway(vmm="odd") as g:
        g.start()
        until(lambda: g.status().get("state") == "running", "it goes on")
        before = len(os.listdir("/proc/%d/fd" % g.process.pid))
        require(before < 30, "descriptors that a child sent were kept: %d" % before)
    with Gateway(vmm="liar", ledger="mute") as g:
        g.start()
        g.up()
        ledger = g.status()["processes"]["ledger"]
        require("status" not in ledger and ledger["error"] == "the ledger process does not answer", "an answer was forged")


def chatter_is_bounded():
    with Gateway(vmm="chatter") as g:
        g.start()
        g.up()
        require(g.said().count("red") <= 110, "a child fills the log")
        require("\x1b" not in g.said() and "\\x1b[31mred" in g.said(), "an escape sequence reached the log")


def the_silent_are_named():
    with Gateway(dataplane="mute") as g:
        g.start()
        g.up()
        answer = g.ask(what="holds")
        require(answer == {"id": "q", "error": "the dataplane process does not answer", "code": 69}, str(answer))
        status = g.status()
        require(status["processes"]["dataplane"]["error"] == "the dataplane process does not answer", str(status))
        require("status" in status["processes"]["ledger"], "the others' answers came all the same")
    with Gateway(ledger="deaf") as g:
        g.start()
        until(lambda: g.status().get("state") == "running", "it runs")
        require("does not answer" in g.ask(what="verdicts")["error"], "a deaf child")


def the_control_socket_is_bounded():
    with Gateway() as g:
        g.start()
        g.up()

        def exchange(data):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(PATIENCE)
                s.connect(g.control)
                try:
                    s.sendall(data)
                except OSError:
                    pass
                return s.makefile().readline()

        for bad in (b"hello\n", b"[]\n", b"{}\n", b'{"what": 5}\n', b"\n", b"\xff\xfe\n", b'{"what":"x","what":"y"}\n', b"[" * 9999 + b"\n"):
            answer = json.loads(exchange(bad))
            require(answer["code"] == 64 and answer["id"] is None, "%s: %s" % (bad[:20], answer))
        require("too long" in exchange(b"x" * 70000), "a line without end")
        require(g.ask(what="stauts")["error"] == 'there is no request "stauts", did you mean "status"?', "a suggestion")
        require(g.ask(what="show", hold=-1)["code"] == 64, "a hold's number")
        require(g.ask(what="show", hold=7)["error"] == "there is no such hold", "the ledger's own sentence")
        sockets = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for s in sockets:
            s.settimeout(PATIENCE)
            s.connect(g.control)
        require("too many" in sockets[-1].makefile().readline(), "connections are counted")
        for s in sockets:
            s.close()
        until(g.status, "and freed")  # one too many may also find its connection cut before it has asked
        # Requests whose client has gone, and many in one write.
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(g.control)
            s.sendall(b'{"what":"status"}\n' * 500)
        require(g.status()["state"] == "running", "it goes on")


def guests_are_stopped_and_started_one_by_one():
    with Gateway() as g:
        g.add_guest("db", vlan=7)
        g.start()
        g.up()
        until(lambda: g.guest("db") == "up", "both are up")
        uids = [x["message"]["uid"] for x in g.ops("vmm", "config")]
        require(sorted(uids) == [64002, 64003], "each has a uid of its own: %s" % uids)
        web, dataplane = g.pid("vmm web"), g.pid("dataplane")
        code, said, _ = g.cli("guest", "stop", "db")
        require(code == 0 and said == "guest db: stopped\n", "stop: %d %s" % (code, said))
        downs = g.ops("dataplane", "guest-down")
        require([x["message"]["guest"] for x in downs] == ["db"], "the dataplane is told")
        require(len(g.ops("vmm", "stop")) == 1 and g.pid("vmm web") == web and g.guest("web") == "up", "the other goes on")
        until(lambda: any(r["type"] == "guest-stop" for r in g.records()), "the feed is told")
        text = [r["text"] for r in g.records() if r["type"] == "guest-stop"][0]
        require(re.fullmatch(r"guest db is stopped by uid 0( \(login uid \d+\))?, pid [1-9]\d*", text), "who did it: " + text)
        g.kill("dataplane")
        require(g.guest("db") == "stopped", "a new dataplane starts no guest")
        require([x["message"]["guest"] for x in g.ops("dataplane", "link")].count("db") == 1, "nor links it")
        code, said, _ = g.cli("guest", "start", "db")
        require(code == 0 and said in ("guest db: up\n", "guest db: booting\n"), "start: %d %s" % (code, said))
        until(lambda: [x["message"]["guest"] for x in g.ops("dataplane", "link")].count("db") == 2, "it has a link again")
        before = g.up_as("db")
        require(g.cli("guest", "restart", "db")[0] == 0 and g.up_as("db", before), "a restart is another process")
        require(g.pid("vmm web") == web, "the other never suffered")
        require(not [r for r in g.records() if r["type"] == "restart" and "vmm" in r["process"]], "nothing of it was a crash")
        code, _, said = g.cli("guest", "stop", "bd")
        require(code == 64 and "there is no guest \"bd\", did you mean \"db\"?" in said, "%d %s" % (code, said))
        code, _, said = g.cli("guest", "halt", "db")
        require(code == 64 and "cannot be told to \"halt\"" in said, "%d %s" % (code, said))
        code, said, _ = g.cli("guests")
        rows = {line.split()[0]: line.split() for line in said.splitlines()}
        require(rows["db"][1] in ("up", "booting") and "7" in rows["db"] and "untagged" in rows["web"], "the list: " + said)


def a_guest_that_ended_follows_its_policy():
    with Gateway() as g:
        g.add_guest("cautious", restart="on-crash", backoff={"first": "1 ms"})
        g.add_guest("mortal", restart="never")
        g.start()
        g.up()
        names = ("cautious", "mortal")
        pids = {name: g.up_as(name) for name in names}
        os.kill(pids["cautious"], signal.SIGKILL)
        os.kill(g.up_as("cautious", pids["cautious"]), signal.SIGUSR1)  # a crash is a reason
        until(lambda: g.guest("cautious") == "stopped", "a power-off is none")
        os.kill(pids["mortal"], signal.SIGKILL)
        until(lambda: g.guest("mortal") == "stopped", "never is never")
        until(lambda: sum("and stays so" in r["text"] for r in g.records()) == 2, "the feed says so")
        require(sorted(x["message"]["guest"] for x in g.ops("dataplane", "guest-down")) == ["cautious", "cautious", "mortal"],
                "the dataplane knows")
        require(g.guest("web") == "up", "the others go on")
        require(g.cli("guest", "start", "mortal")[0] == 0, "an operator starts it")
        until(lambda: g.guest("mortal") == "up", "and up it is")


def a_processor_share_is_in_force_or_declared():
    with Gateway() as g:
        g.config["guests"]["web"].update(cpu="50 %", cpu_weight=300)
        g.add_guest("free")
        g.start()
        g.up()
        web = g.status()["guests"]["web"]
        require(web["cpu_percent"] == 50 and "cpu_percent" not in g.status()["guests"]["free"], "who has a share: %s" % web)
        told = [r["text"] for r in g.records() if r["type"] == "cpu-unbounded"]
        with open("/proc/%d/cgroup" % g.pid("vmm web")) as f:
            group = [line.strip().split("::")[1] for line in f if line.startswith("0::")]
        if "cpu_not_in_force" in web:  # a machine, or a service, without the controller
            require(told == ["guest web: cpu: 50 % and cpu_weight: 300 is not in force: " + web["cpu_not_in_force"]], "the feed says so: %s" % told)
            require("is not in force" in g.cli("guests")[1], "so does the list")
            return
        require(not told and group[0].endswith("-guest-web"), "it is in a group of its own: %s %s" % (told, group))
        mount = [line.split()[4] for line in open("/proc/self/mountinfo") if " - cgroup2 " in line][0]
        with open(mount + group[0] + "/cpu.max") as f:
            require(f.read().split() == ["50000", "100000"], "its bound")
        with open(mount + group[0] + "/cpu.weight") as f:
            require(f.read().split() == ["300"], "its weight")
        require(g.stop() == 0 and not os.path.exists(mount + group[0]), "the group is gone with the gateway")


def many_guests_run():
    with Gateway() as g:
        for i in range(20):
            g.add_guest("g%d" % i)
        g.start()
        g.up()
        until(lambda: all(guest["state"] == "up" for guest in g.status()["guests"].values()), "all are up")
        require(len(g.status()["guests"]) == 21 and len({x["message"]["uid"] for x in g.ops("vmm", "config")}) == 21, "all different")
        status = g.status()["processes"]
        require(all("status" in status["vmm g%d" % i] for i in range(20)), "each answers for itself")


def a_console_is_shown_without_its_tricks():
    with Gateway() as g:
        g.start()
        g.up()
        path = g.path("state/console-web.log")
        with open(path, "a") as f:
            f.write("one\r\ntwo\x1b[2J\nthree\n")
        shown = subprocess.Popen([FORETASTE, "guest", "console", "web", "--last", "2", "--control", g.control],
                                 stdout=subprocess.PIPE, text=True)
        try:
            line = shown.stdout.readline
            require([line(), line()] == ["two\\x1b[2J\n", "three\n"], "the last lines, cleaned")
            with open(path, "a") as f:
                f.write("four\n")
            require(line() == "four\n", "what is added")
            os.truncate(path, 0)
            with open(path, "a") as f:
                f.write("5\n")
            require(line() == "5\n", "a log that was cut at its bound")
        finally:
            shown.kill()
            shown.wait()
            shown.stdout.close()


def a_crash_loop_slows_down():
    with Gateway() as g:
        g.start()
        g.up()
        g.mode("vmm", "die")
        os.kill(g.pid("vmm"), signal.SIGKILL)
        until(lambda: g.status()["processes"]["vmm web"]["restarts"] >= 4, "it is tried again and again")
        g.mode("vmm", "")
        g.up()


def each_end_is_told_with_its_own_cause():
    with Gateway() as g:
        g.config["guests"]["web"]["backoff"] = {"first": "20 ms", "most": "20 ms"}
        g.start()
        g.up()
        downs = lambda: events(g, "guest-down")
        restarts = lambda: [r["text"] for r in g.records() if r["type"] == "restart" and r["process"] == "vmm web"]
        kill = lambda: os.kill(g.pid("vmm"), signal.SIGKILL)

        def ends(cause, times, act):
            """cause: the rest of the sentence, a pattern."""
            before = len(downs())
            fits = lambda text: re.search("process %s$" % cause, text)
            act()
            until(lambda: sum(map(bool, map(fits, downs()[before:]))) >= times, "%s: %s" % (cause, downs()[before:]))
            own = [bool(fits(text)) for text in downs()[before:]]
            # The first may be that of a process which was under way.
            require(all(own[own.index(True):]), "%s: %s" % (cause, downs()[before:]))
            until(lambda: any(re.search("process %s; a new one starts" % cause, text) for text in restarts()), "the replacement is told, too")
            until(lambda: any(re.fullmatch(cause, x["message"]["why"]) for x in g.ops("dataplane", "guest-down")), "the dataplane is told")
            g.mode("vmm", "")
            if os.path.exists(g.path("gone")):
                os.rename(g.path("gone"), g.path("vmlinuz"))
            g.up()

        def start_as(mode):
            g.mode("vmm", mode)
            kill()

        def without_kernel():
            os.rename(g.path("vmlinuz"), g.path("gone"))
            kill()

        def last_words():
            with open(g.path("foretaste-vmm.say.json"), "w") as f:
                json.dump([{"op": "failed", "code": 70, "text": "the engine stopped\x1b there"}], f)
            g.status()
            kill()

        ends(r"was killed by signal 9 \(Killed\)", 1, kill)
        ends(r"ended with status 66: there is no\\x1b such port", 2, lambda: start_as("fail"))
        ends(r"was killed: it cannot be configured: \S+/t\.yaml:\d+:\d+: kernel: cannot open \S+: No such file or directory", 2, without_kernel)
        ends("ended with status 3", 2, lambda: start_as("die"))
        ends("was killed: it sent what is no message", 2, lambda: start_as("garbage"))
        ends(r"was killed by signal 9 \(Killed\): the engine stopped\\x1b there", 1, last_words)
        ends("was killed: it has no channel any more and goes on", 1, lambda: start_as("hangup"))
        ends(r"was killed by signal 9 \(Killed\)", 1, kill)


def the_command_line_shows_it():
    with Gateway() as g:
        g.start()
        g.up()

        def cli(*arguments):
            return subprocess.run([FORETASTE, *arguments, "--control", g.control], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=PATIENCE)

        status = cli("status")
        require(status.returncode == 0 and "guest web: up, up 1.5 s after its start" in status.stdout, status.stdout + status.stderr)
        require(json.loads(cli("status", "--json").stdout)["guests"]["web"]["state"] == "up", "JSON")
        require(cli("holds").stdout == "nothing is held\n", "no holds")
        require(json.loads(cli("holds", "--json").stdout) == [], "no holds as JSON")
        show = cli("show", "7")
        require(show.returncode == 65 and show.stderr == "foretaste: there is no such hold\n", show.stderr)
        metrics = cli("metrics")
        require('foretaste_restarts_total{process="vmm web"} 0' in metrics.stdout.splitlines(), metrics.stdout)
        g.stop()
        gone = cli("status")
        require(gone.returncode == 69 and "no gateway is running" in gone.stderr, gone.stderr)


class Shipper:
    """A log shipper: listens on a stream socket, takes one connection at a time, and knows whole lines only."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.bind(path)
        os.chmod(path, 0o600)  # root's own: the ledger itself could not connect here
        self.socket.listen(1)
        self.path = path

    def accept(self):
        connection = self.socket.accept()[0]
        connection.settimeout(PATIENCE)
        self.connection, self.stream = connection, connection.makefile("rb")

    def until_message(self, text):
        while True:
            line = self.stream.readline()
            require(line.endswith(b"\n"), "the connection ended before: " + text)
            if text in json.loads(line).get("engine", {}).get("message", ""):
                return

    def hang_up(self):
        self.stream.close()
        self.connection.close()

    def close(self):
        self.socket.close()
        os.unlink(self.path)


def sinks(g):
    return g.status().get("processes", {}).get("ledger", {}).get("status", {}).get("feed", {}).get("sinks", {})


def the_feed_goes_to_who_listens_now_or_later():
    """With the real ledger: a SIEM that is down at the start stops nothing, is named once, and gets what it missed."""
    with Gateway() as g:
        os.remove(g.path("foretaste-ledger"))
        os.symlink(LEDGER, g.path("foretaste-ledger"))
        path, log = g.path("shipper.sock"), g.path("devlog")
        g.config["feed"] = {"socket": path, "syslog": {"socket": log, "cookie": "cee"}}
        g.start()
        g.up()
        until(lambda: all("No such file" in sinks(g).get(name, {}).get("trouble", "") for name in ("socket", "syslog")), "what is wrong")
        require(sinks(g)["socket"]["connected"] is False and sinks(g)["socket"]["waiting"] > 0, "lines wait: %s" % sinks(g))
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.settimeout(PATIENCE)
        receiver.bind(log)
        shipper = Shipper(path)
        shipper.accept()
        shipper.until_message("the gateway has started")
        message = receiver.recv(1 << 16)
        while b"the gateway has started" not in message:
            message = receiver.recv(1 << 16)
        require(re.match(rb"<174>[A-Z][a-z]{2} [ 1-3]\d \d\d:\d\d:\d\d foretaste\[\d+\]: @cee: \{", message), "a syslog message: %s" % message)
        for sink in ("socket", "syslog"):
            said = "feed.%s: cannot connect to %s: No such file or directory; its lines wait, and it is tried again" % (
                sink, g.path({"socket": "shipper.sock", "syslog": "devlog"}[sink]))
            require(g.said().count(said) == 1, "said once: " + g.said())
            until(lambda: sinks(g)[sink]["connected"], sink + " is connected")
        # What a reader says goes nowhere: the feed's socket is one way.
        try:
            shipper.connection.send(b"x")
            require(False, "a reader can write to the ledger")
        except BrokenPipeError:
            pass
        # The reader goes and comes back, and what happened meanwhile comes.
        shipper.hang_up()
        until(lambda: not sinks(g)["socket"]["connected"] or "the connection is gone" in g.said(), "the ledger sees it")
        g.kill("vmm")
        shipper.accept()
        shipper.until_message("guest web is down")
        # A new ledger has a new connection, and the reader is told why.
        g.kill("ledger")
        shipper.stream.read()  # to its end: the dead ledger's connection is closed
        shipper.hang_up()
        shipper.accept()
        shipper.until_message("the ledger process was killed by signal 9")
        until(lambda: sinks(g)["socket"]["connected"] and sinks(g)["syslog"]["connected"], "connected again")
        status = subprocess.run([FORETASTE, "status", "--control", g.control], capture_output=True, text=True).stdout
        require(re.search(r"feed\.socket: %s: connected: \d+ lines, 0 wait, 0 lost" % re.escape(path), status), status)
        metrics = subprocess.run([FORETASTE, "metrics", "--control", g.control], capture_output=True, text=True).stdout
        require('foretaste_feed_connected{sink="socket"} 1\n' in metrics and 'foretaste_feed_lost_total{sink="syslog"} 0\n' in metrics
                and 'foretaste_feed_lines_total{sink="file"}' in metrics, metrics)
        g.stop()
        shipper.until_message("the gateway stops")
        shipper.hang_up()
        shipper.close()
        receiver.close()


def a_reader_that_hangs_up_at_once_is_not_tried_without_end():
    with Gateway(ledger="loses-sinks") as g:
        shipper = Shipper(g.path("shipper.sock"))
        shipper.socket.listen(64)
        g.config["feed"] = {"socket": g.path("shipper.sock")}
        g.start()
        g.up()
        # This ledger says of each connection, a hundred times, that it is gone: the pauses double all the same.
        until(lambda: len(g.ops("ledger", "sink")) >= 4, "it is connected again")
        times = [x["at"] for x in g.ops("ledger", "sink")][:4]
        pauses = [b - a for a, b in zip(times, times[1:])]
        require(pauses[0] >= 0.19 and pauses[1] >= 0.39 and pauses[2] >= 0.79, "pauses: %s" % pauses)
        require(all(x["fds"] == 1 for x in g.ops("ledger", "sink")), "a connection each time")
        gone = g.said().count("the connection is gone")
        require(gone <= len(g.ops("ledger", "sink")), "each is gone once: " + g.said())
        shipper.close()


def who_does_not_listen_is_tried_again_and_named_once():
    with Gateway() as g:
        g.config["feed"] = {"socket": g.path("shipper.sock")}
        g.start()
        g.up()
        until(lambda: len(g.ops("ledger", "sink")) >= 4, "it is tried again")
        require(g.said().count("feed.socket: cannot connect") == 1, "said once: " + g.said())
        require(all("No such file" in x["message"]["error"] and x["fds"] == 0 for x in g.ops("ledger", "sink")), "the ledger is told")
        shipper = Shipper(g.path("shipper.sock"))
        shipper.accept()
        until(lambda: g.ops("ledger", "sink")[-1]["fds"] == 1, "the ledger has the connection")
        shipper.hang_up()
        shipper.close()


def a_feed_is_followed_through_rotation():
    directory = tempfile.mkdtemp(prefix="foretaste-follow-")
    feed = os.path.join(directory, "feed.json")

    def event(n):
        return '{"event_type": "engine", "engine": {"message": "event %d"}}\n' % n

    def append(text):
        with open(feed, "a") as f:
            f.write(text)

    append(event(1) + event(2))
    reader = subprocess.Popen([FORETASTE, "feed", "--follow", "--last", "1", "--file", feed], stdout=subprocess.PIPE, text=True)
    try:
        line = reader.stdout.readline
        require(line().startswith("TIME") and line().rstrip().endswith("event 2"), "the last line first")
        append(event(3)[:20])
        append(event(3)[20:] + event(4))
        require(line().rstrip().endswith("event 3") and line().rstrip().endswith("event 4"), "what is added, line by line")
        os.rename(feed, feed + ".1")
        append(event(5) + event(55))  # longer than what follows, or a cut could not be told from no change
        require(line().rstrip().endswith("event 5") and line().rstrip().endswith("event 55"), "a new file of that name")
        os.truncate(feed, 0)
        append(event(6))
        require(line().rstrip().endswith("event 6"), "a file that was cut")
    finally:
        reader.kill()
        reader.wait()
        reader.stdout.close()
        shutil.rmtree(directory)


WHO = r"uid 0( \(login uid \d+\))?, pid [1-9]\d*"


def events(g, kind):
    return [r["text"] for r in g.records() if r["type"] == kind]


def what_operators_do_is_told_with_their_names():
    with Gateway() as g:
        g.start()
        g.up()
        require("hold" in g.ask(what="release")["error"] and g.ask(what="drop", hold=0)["code"] == 64, "a hold is named")
        require("result" in g.ask(what="release", hold=17) and "result" in g.ask(what="drop", hold=18), "they are done")
        until(lambda: events(g, "release") and events(g, "drop"), "the feed is told")
        require(re.fullmatch("hold 17 was released by " + WHO, events(g, "release")[0]), "who: %s" % events(g, "release"))
        require(re.fullmatch("hold 18 was dropped by " + WHO, events(g, "drop")[0]), "who: %s" % events(g, "drop"))
        asked = [x["message"] for x in g.ops("dataplane", "query") if x["message"]["what"] in ("release", "drop")]
        require([(x["what"], x["hold"]) for x in asked] == [("release", 17), ("drop", 18)], "what the dataplane is asked")


def modes_and_bypass_outlive_a_dataplane_process():
    with Gateway() as g:
        g.start()
        g.up()
        require("did you mean \"shadow\"?" in g.ask(what="mode", service="http", mode="shadov")["error"], "a mode is known")
        require("did you mean \"http\"?" in g.ask(what="mode", service="htp", mode="shadow")["error"], "a service is known")
        require(g.ask(what="bypass", service="http")["code"] == 64, "on or off")
        require("bypass" not in g.status(), "everything is inspected")
        for request in (dict(what="mode", service="http", mode="enforce"), dict(what="bypass", on=True, service="http"),
                        dict(what="bypass", on=True)):
            require("result" in g.ask(**request), "%s is done" % request)
        require(g.status()["bypass"] == {"all": True, "services": ["http"]}, "status is loud: %s" % g.status().get("bypass"))
        shown = subprocess.run([FORETASTE, "status", "--control", g.control], capture_output=True, text=True).stdout
        require(shown.splitlines()[0].startswith("!!! BYPASS: inspection is OFF for all services"), "and so is text: " + shown)
        g.kill("dataplane")
        part = g.ops("dataplane", "config")[1]["message"]["config"]
        require(part["services"]["http"]["mode"] == "enforce" and part["services"]["http"]["bypass"] is True, "the service's")
        require(part["bypass"] is True, "and that of all")
        g.ask(what="bypass", on=False)
        g.ask(what="bypass", on=False, service="http")
        require("bypass" not in g.status(), "everything is inspected again")
        g.kill("dataplane")
        part = g.ops("dataplane", "config")[2]["message"]["config"]
        require("bypass" not in part and "bypass" not in part["services"]["http"], "also after a restart")
        until(lambda: len(events(g, "bypass-off")) == 2, "the feed is told")
        require(re.fullmatch("service http was switched to enforce by " + WHO, events(g, "mode")[0]), events(g, "mode")[0])
        require(re.fullmatch("inspection of service http was switched OFF by " + WHO, events(g, "bypass-on")[0]), "on")
        require(re.fullmatch("inspection of all services was switched on again by " + WHO, events(g, "bypass-off")[0]), "off")


def suppressions_outlive_everything_but_their_time():
    with Gateway() as g:
        g.start()
        g.up()
        lists = lambda: [x["message"]["list"] for x in g.ops("dataplane", "suppress")]
        for wrong, text in (({}, "everything"), ({"sid": 1}, "for is missing"), ({"sid": -1, "for": "1 h"}, "rule's number"),
                            ({"network": "10.0.0.0/33", "for": "1 h"}, "expected for example"), ({"sid": 1, "for": "9"}, "for:"),
                            ({"service": "ftp", "for": "1 h"}, "no service"), ({"sid": 1, "for": "9000 h"}, "a year"),
                            ({"sid": 1, "for": "1 h", "comment": "x" * 201}, "comment")):
            answer = g.ask(what="suppress", **wrong)
            require(answer.get("code") == 64 and text in answer["error"], "%s: %s" % (wrong, answer))
        require(not any(lists()), "nothing came of that")
        made = g.ask(what="suppress", sid=1000001, network="10.0.0.0/8", service="http", comment="a scanner of ours",
                     **{"for": "8 h"})["result"]
        require(made["id"] == 1 and re.fullmatch(WHO, made["author"]), "%s" % made)
        second = g.ask(what="suppress", service="http", **{"for": "2 s"})["result"]
        until(lambda: any(len(x) == 2 for x in lists()), "the dataplane has both")
        g.kill("dataplane")
        until(lambda: [x["id"] for x in g.ops("dataplane", "config")[-1]["message"]["config"]["suppressions"]][:1] == [1],
              "a new one, too")
        until(lambda: [x["id"] for x in lists()[-1]] == [1], "the second is over")
        until(lambda: len(events(g, "suppress-end")) == 1, "which is told")
        require(events(g, "suppress-end")[0] == "suppression %d (all findings at service http) has ended" % second["id"], "so")
        require(re.fullmatch(r"suppression 1 \(rule 1000001 of clients in 10.0.0.0/8 at service http\) was made for [^ ]+ [a-z]+ "
                             "by " + WHO + ": a scanner of ours", events(g, "suppress")[0]),
                "who: %s" % events(g, "suppress"))
        g.stop(signal.SIGKILL)
        until(lambda: not g.children(), "the children end with it")
        g.start()
        g.up()
        config = g.ops("dataplane", "config")[-1]["message"]["config"]
        require([x["comment"] for x in config["suppressions"]] == ["a scanner of ours"], "it outlives the gateway")
        require(g.ask(what="unsuppress", suppression=7)["code"] == 65, "there is no such one")
        got = subprocess.run([FORETASTE, "suppress", "remove", "1", "--control", g.control], capture_output=True, text=True)
        require(got.returncode == 0 and "a scanner of ours" in got.stdout, "%s" % (got,))
        until(lambda: lists()[-1] == [], "and can be removed")
        got = subprocess.run([FORETASTE, "suppress", "add", "sid=5", "for=1 h", "--json", "--control", g.control],
                             capture_output=True, text=True)
        require(json.loads(got.stdout)["id"] == 3, "numbers are not given out again: %s" % (got,))
    with Gateway() as g:
        os.makedirs(g.path("state"))
        with open(g.path("state/suppressions"), "w") as f:
            f.write('{"next": 1')
        code, said = g.run()
        require(code == 78 and "suppressions in the state directory is damaged" in said, "%d %s" % (code, said))


def a_reload_is_all_or_nothing():
    with Gateway() as g:
        g.start()
        g.up()

        def write(change=lambda c: None):
            config = json.loads(json.dumps(g.config))
            change(config)
            with open(g.path("t.yaml"), "w") as f:
                json.dump(config, f, indent=1)

        reloads = lambda: [x["message"]["config"] for x in g.ops("dataplane", "query") if x["message"]["what"] == "reload"]
        # What is wrong, or cannot change, is named by its place; the dataplane is not even asked.
        write(lambda c: c["services"]["http"].update(mode="enforced"))
        answer = g.ask(what="reload")
        require(answer["code"] == 78 and re.search(r"t\.yaml:\d+:\d+: mode is \"enforced\"", answer["error"]), "%s" % answer)
        for change, key in ((lambda c: c.update(flows=128), "flows"), (lambda c: c["guests"]["web"].update(memory="128 MiB"),
                            "guests.web.memory"), (lambda c: c.update(clone={"max": 2}), "clone.max"),
                            (lambda c: c["guests"].update(db=dict(c["guests"]["web"], mac="52:54:00:00:02:10", address="10.0.2.16")),
                             "guests.db"), (lambda c: c.update(feed={"file": "other.json"}), "feed.file")):
            write(change)
            answer = g.ask(what="reload")
            require(answer["code"] == 78 and re.search(r"t\.yaml:\d+:\d+: " + key.replace(".", r"\.") + " cannot change while the",
                                                       answer["error"]), "%s: %s" % (key, answer))
        with open(g.path("t.yaml"), "w") as f:
            f.write("{")
        require(g.ask(what="reload")["code"] == 78, "a file that is no YAML")
        require(not reloads(), "the dataplane was asked")
        # What can change does, everywhere; what operators switched stays.
        g.ask(what="mode", service="http", mode="enforce")
        write(lambda c: (c["services"]["http"].update(mode="shadow", hold_limit="64 KiB", quarantine="1 MiB"),
                         c.update(quarantine={"quota": "2 MiB"}, clone={"wall": "5 s"})))
        require(g.ask(what="reload")["result"], "it is reloaded")
        part = reloads()[0]
        require(part["services"]["http"]["mode"] == "enforce" and part["services"]["http"]["hold_limit"] == 65536, "%s" % part)
        until(lambda: g.ops("ledger", "quotas"), "the ledger has its part")
        require(g.ops("ledger", "quotas")[0]["message"]["quarantine_shares"] == {"http": 1 << 20}, "shares")
        g.kill("dataplane")
        part = g.ops("dataplane", "config")[1]["message"]["config"]
        require(part["clone"]["wall"] == 5 * 10**9 and part["services"]["http"]["hold_limit"] == 65536, "a new process has it")
        # By signal, both ways; and often.
        g.process.send_signal(signal.SIGHUP)
        until(lambda: len(events(g, "reload")) == 2, "SIGHUP reloads")
        write(lambda c: c.update(flows=128))
        g.process.send_signal(signal.SIGHUP)
        until(lambda: any("SIGHUP" in x and "flows cannot change" in x for x in events(g, "reload-failed")), "and says why not")
        write()
        for _ in range(20):
            require(g.ask(what="reload")["result"], "it is reloaded")
        until(lambda: len(events(g, "reload")) == 22, "each is told")
        require(re.fullmatch("the configuration was reloaded by " + WHO, events(g, "reload")[0]), events(g, "reload")[0])
        got = subprocess.run([FORETASTE, "reload", "--control", g.control], capture_output=True, text=True)
        require(got.returncode == 0 and "was reloaded" in got.stdout, "%s" % (got,))


def a_reload_that_the_dataplane_does_not_take_changes_nothing():
    with Gateway() as g:
        g.start()
        g.up()
        g.mode("dataplane", "refuses")
        g.kill("dataplane")
        require(g.log("dataplane"), "it is another one")
        g.config["services"]["http"]["hold_limit"] = "64 KiB"
        with open(g.path("t.yaml"), "w") as f:
            json.dump(g.config, f)
        require(g.ask(what="reload")["error"] == "it does not like that", "its sentence")
        until(lambda: any("it does not like that" in x for x in events(g, "reload-failed")), "and in the feed")
        g.mode("dataplane", "mute")
        g.kill("dataplane")
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(PATIENCE)
            s.connect(g.control)
            s.sendall(b'{"what": "reload", "id": 1}\n')
            until(lambda: any(x["message"]["what"] == "reload" for x in g.ops("dataplane", "query")[-1:]), "it is asked")
            require(g.ask(what="reload")["code"] == 75, "one at a time")
            g.mode("dataplane", "")
            g.kill("dataplane")
            require("died before it answered" in json.loads(s.makefile().readline())["error"], "it died of it")
        part = g.ops("dataplane", "config")[-1]["message"]["config"]
        require(part["services"]["http"]["hold_limit"] == 256 << 10, "the old configuration stays in force")
        require(g.ask(what="reload")["result"], "and another reload can come")


def former_rules_are_kept_as_long_as_something_needs_them():
    day, now = 86400, int(time.time())

    def age(path, days):
        os.utime(path, (now - days * day,) * 2)

    def make(path, days):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write("{}")
        age(path, days)

    with Gateway() as g:
        rules = lambda: set(os.listdir(g.path("state/rules")))
        at = lambda name: os.stat(g.path("state/rules/" + name)).st_mtime_ns
        former = lambda letter: letter * 64 + ".json"
        others = {"notes", former("A"), former("a")[1:], former("a") + "x", former("d")[:-5]}

        def again():
            g.start()
            g.up()
            g.stop()

        again()
        current, = rules()
        # a to e came into force one after the other, then the current ones. An hour is allowed for.
        for letter, days in (("a", 10), ("b", 9), ("c", 6 + 0.5 / 24), ("d", 5), ("e", 4)):
            make(g.path("state/rules/" + former(letter)), days)
        age(g.path("state/rules/" + current), 3)
        was = at(current)
        for name in others:
            make(g.path("state/rules/" + name), 100)
        # Of a guest that is none any more. Its segment was written to until today.
        make(g.path("state/journal/gone/000002-000003.checkpoint"), 6)
        make(g.path("state/journal/gone/000002-000003.journal"), 0)
        make(g.path("state/journal/notes"), 50)
        make(g.path("state/seeds/web-7"), 2)
        again()
        require(rules() == others | {current} | set(map(former, "bcde")), "needed by a journal: %s" % sorted(rules()))
        require(at(current) == was, "they came into force again, though they were")
        make(g.path("state/seeds/web-5"), 4.5)
        shutil.rmtree(g.path("state/journal/gone"))
        again()
        require(rules() == others | {current} | set(map(former, "de")), "needed by a seed: %s" % sorted(rules()))
        os.unlink(g.path("state/seeds/web-5"))
        again()
        require(rules() == others | {current}, "needed by a younger seed: %s" % sorted(rules()))
        require("1 former sets of rules are not kept" in g.said() and "2 former sets of rules" in g.said(), g.said())
        # Rules that are put in force and refused: the ones before are the last ones.
        g.mode("dataplane", "refuses")
        g.start()
        g.up()
        g.config["services"]["http"]["normal"] = {"may_exec": ["/bin/true"]}

        def reload():
            with open(g.path("t.yaml"), "w") as f:
                json.dump(g.config, f)
            return g.ask(what="reload")

        require(reload()["error"] == "it does not like that", "refused")
        until(lambda: events(g, "reload-failed"), "it is told")
        fresh, = rules() - others - {current}
        require(at(current) > at(fresh), "the refused ones count as the last ones")
        g.mode("dataplane", "")
        g.kill("dataplane")
        require(reload().get("result"), "taken")
        require(rules() == others | {current, fresh} and at(fresh) > at(current), "they are in force")


def logs_are_reopened():
    with Gateway() as g:
        g.start()
        g.up()
        for name in ("feed.json", "console-web.log"):
            os.rename(g.path("state/" + name), g.path("state/" + name + ".1"))
        require(g.ask(what="reopen-logs")["result"], "by request")
        for name, process in (("feed.json", "ledger"), ("console-web.log", "vmm")):
            until(lambda: [x["fds"] for x in g.ops(process, "reopen")] == [1], process + " has a new file")
            require(os.stat(g.path("state/" + name)).st_size == 0, "a new " + name)
        g.process.send_signal(signal.SIGUSR1)
        until(lambda: len(events(g, "reopen-logs")) == 2, "by signal")
        require(re.fullmatch("the logs were reopened by " + WHO, events(g, "reopen-logs")[0]), events(g, "reopen-logs")[0])
        os.unlink(g.path("state/feed.json"))
        os.mkdir(g.path("state/feed.json"))
        answer = g.ask(what="reopen-logs")
        require(answer["code"] == 66 and "feed: cannot open" in answer["error"], "%s" % answer)
        until(lambda: len(g.ops("vmm", "reopen")) == 3, "the others are reopened all the same")
        os.rmdir(g.path("state/feed.json"))


def what_operators_do_is_told_though_they_leave_or_nobody_answers():
    with Gateway() as g:
        g.start()
        g.up()
        with socket.socket(socket.AF_UNIX) as s:  # gone before the answer can come
            s.connect(g.control)
            s.sendall(b'{"what": "release", "hold": 17}\n')
        until(lambda: events(g, "release"), "the feed is told")
        require("hold 17 was released by" in events(g, "release")[0], "%s" % events(g, "release"))
    with Gateway(dataplane="mute") as g:
        g.start()
        until(lambda: g.status().get("state") == "running", "it runs")
        require(g.ask(what="drop", hold=1)["code"] == 69, "nobody answers")
        until(lambda: events(g, "drop"), "the feed is told of the attempt")
        require("did not say whether it was done" in events(g, "drop")[0], "%s" % events(g, "drop"))


def file_key(key, salt):
    return hashlib.blake2b(b"foretaste snapshot 1\0" + salt, key=key, digest_size=32).digest()


def header_of(guest, key=None, salt=bytes(32), origin=bytes(16)):
    """The header of a snapshot (src/snapshot/snapshot.md); key: the operator's."""
    id = hashlib.blake2b(b"foretaste snapshot key\0", key=file_key(key, salt), digest_size=16).digest() if key else bytes(16)
    return (b"FTSNAPSH" + struct.pack("<II", 1, bool(key)) + salt + struct.pack("<6Q", 256 << 20, 0, 0, 1700000000 * 10**9, 5, 6)
            + guest.encode().ljust(64, b"\0") + id + origin)


def snapshot_of(*args, **kw):
    """A whole one, with nothing in it."""
    header = header_of(*args, **kw)
    key = file_key(kw["key"], kw["salt"]) if kw.get("key") else b""
    return header + struct.pack("<QQ", len(header), 0) + hashlib.blake2b(header, key=key, digest_size=32).digest() + b"FTSNAPIX"


def snapshots_are_whole_or_not_there():
    with Gateway() as g:
        g.start()
        g.up()
        state = lambda: g.ask(what="snapshot-state", guest="web")["result"]
        ended = lambda: until(lambda: state()["state"] != "saving" and state(), "the save is over")
        files = lambda: sorted(os.listdir(g.path("state/snapshots")))
        names = lambda: [x["name"] for x in g.ask(what="snapshot-list")["result"]]
        require(state()["state"] == "none" and names() == [], "there is none")
        for name in ("", "..", ".x", "a/b", "-a", "a" * 65, None):
            require(g.ask(what="snapshot-save", guest="web", name=name)["code"] == 64, "a name like %r" % name)
        require(g.ask(what="snapshot-save", guest="wub", name="a")["code"] == 64, "no such guest")
        # The vmm says that it cannot.
        require(g.ask(what="snapshot-save", guest="web", name="one")["result"]["state"] == "saving", "it begins")
        require(ended()["state"] == "failed" and "no" in state()["error"] and "\x1b" not in state()["error"], "%s" % state())
        require(files() == [], "nothing is left: %s" % files())
        # It writes another guest's, or nothing that is one.
        for wrong in (header_of("other"), b"", header_of("web")[:100], b"x" * 192):
            with open(g.path("foretaste-vmm.snapshot.bin"), "wb") as f:
                f.write(wrong)
            g.ask(what="snapshot-save", guest="web", name="one")
            require(ended()["state"] == "failed" and files() == [], "%r is taken: %s" % (wrong[:20], state()))
        with open(g.path("foretaste-vmm.snapshot.bin"), "wb") as f:
            f.write(snapshot_of("web"))
        code, out, err = g.cli("snapshot", "save", "web", "one")
        require(code == 0 and "248 bytes" in out and files() == ["one"] and names() == ["one"], out + err)
        require("snapshot one of guest web is saved" in until(lambda: events(g, "snapshot"), "it is told")[0], "the feed")
        code, out, err = g.cli("snapshot", "list")
        require(code == 0 and "one" in out and "256 MiB" in out, out + err)
        code, out, err = g.cli("snapshot", "verify", "one")
        require(code == 65 and "states" in err, "a snapshot without a guest in it is whole: %d %s" % (code, err))
        # A save that dies leaves the old one.
        g.mode("vmm", "never-saves")
        g.kill("vmm")
        g.up()
        with open(g.path("state/snapshots/one"), "rb") as f:
            before = f.read()
        g.ask(what="snapshot-save", guest="web", name="one")
        require(g.ask(what="snapshot-save", guest="web", name="two")["code"] == 75, "one at a time")
        require(files() == [".one.new", "one"] and names() == ["one"], "%s" % files())
        g.kill("vmm")
        require(ended()["state"] == "failed" and files() == ["one"], "%s %s" % (state(), files()))
        with open(g.path("state/snapshots/one"), "rb") as f:
            require(f.read() == before, "the old one is as it was")
        # Restored: a new process that gets the file, once, isolated until told.
        g.up()
        require(g.ask(what="snapshot-restore", guest="web", name="two")["code"] == 66, "no such snapshot")
        pid = g.pid("vmm")
        for name, bytes_ in (("cut", before[:-1]), ("other", snapshot_of("wob")), ("bit", before[:60] + b"\1" + before[61:])):
            with open(g.path("state/snapshots/" + name), "wb") as f:
                f.write(bytes_)
            code, out, err = g.cli("snapshot", "restore", "web", name)
            require(code == 65 and "snapshot %s is not restored" % name in err, "%s: %d %s" % (name, code, err))
            os.unlink(g.path("state/snapshots/" + name))
        require(g.pid("vmm") == pid, "the guest is not ended for what cannot be restored")
        require(g.cli("snapshot", "restore", "web", "one")[0] == 0, "it is restored")
        g.up_as("web", pid)
        last = g.ops("vmm", "config")[-1]
        require(last["fds"] == 5 and last["message"]["config"]["snapshot"] == {"attach": False}, "%s" % last)
        require(g.status()["guests"]["web"].get("isolated") is True, "it says so: %s" % g.status()["guests"])
        links, told = len(g.ops("vmm", "link")), [x["message"] for x in g.ops("dataplane", "guest-isolated")]
        require(told == [{"op": "guest-isolated", "guest": "web"}], "the dataplane is told: %s" % told)
        # A new dataplane learns it, too, and gets no link to it.
        g.kill("dataplane")
        until(lambda: len(g.ops("dataplane", "guest-isolated")) == 2, "the new one is told")
        require(len(g.ops("vmm", "link")) == links, "an isolated guest gets no link")
        require(g.cli("snapshot", "attach", "web")[0] == 0 and until(lambda: g.ops("vmm", "attach"), "it is told"), "attached")
        until(lambda: len(g.ops("vmm", "link")) == links + 1, "and linked")
        require("isolated" not in g.status()["guests"]["web"], "%s" % g.status()["guests"])
        require(g.cli("snapshot", "attach", "web")[0] == 0 and len(g.ops("vmm", "link")) == links + 1, "once")
        g.kill("vmm")
        last = g.ops("vmm", "config")[-1]
        require(last["fds"] == 4 and "snapshot" not in last["message"]["config"], "once")
        require(g.cli("snapshot", "delete", "one")[0] == 0 and files() == [], "deleted")
        require(g.cli("snapshot", "delete", "one")[0] == 66, "it is gone")


def keyed(g, key, mode=0o600, name="key"):
    with open(g.path(name), "wb") as f:
        f.write(key)
    os.chmod(g.path(name), mode)


def snapshots_are_encrypted_with_a_key_of_their_own():
    key, other, salt = bytes(range(32)), bytes(range(1, 33)), bytes(range(100, 132))
    seal = {"salt": salt.hex(), "key": file_key(key, salt).hex()}
    for mode, text in ((0o640, "mode is 0640"), (0o604, "mode is 0604")):
        with Gateway() as g:
            keyed(g, key, mode)
            g.config["snapshots"] = {"key": "key"}
            code, said = g.run()
            require(code == 77 and text in said and "t.yaml" in said, "a key that others can read: %d %s" % (code, said))
    with Gateway() as g:
        keyed(g, key[:31])
        g.config["snapshots"] = {"key": "key"}
        code, said = g.run()
        require(code == 78 and "is no key" in said, "half a key: %d %s" % (code, said))
    with Gateway() as g:
        g.config["snapshots"] = {"credential": "snapshot-key"}
        os.environ.pop("CREDENTIALS_DIRECTORY", None)
        code, said = g.run()
        require(code == 66 and "LoadCredential" in said, "no credentials: %d %s" % (code, said))
    with Gateway() as g:
        keyed(g, key.hex().encode() + b"\n", 0o400, "snapshot-key")
        g.config["snapshots"] = {"credential": "snapshot-key"}
        os.environ["CREDENTIALS_DIRECTORY"] = g.directory
        g.start()
        del os.environ["CREDENTIALS_DIRECTORY"]
        g.up()
        os.unlink(g.path("snapshot-key"))  # read once
        # The vmm gets the key of the new file, which is another each time, and never the operator's.
        salts = set()
        for number in range(2):
            with open(g.path("foretaste-vmm.snapshot.bin"), "wb") as f:
                f.write(snapshot_of("web", key=key, salt=salt))
            require(g.cli("snapshot", "save", "web", "one")[0] == 0, "it is saved")
            given = g.ops("vmm", "snapshot")[-1]["message"]["seal"]
            require(given["key"] == file_key(key, bytes.fromhex(given["salt"])).hex(), "the file's key: %s" % given)
            salts.add(given["salt"])
        require(len(salts) == 2, "each file has a key of its own")
        with open(g.path("foretaste-vmm.snapshot.bin"), "wb") as f:
            f.write(snapshot_of("web"))
        code, out, err = g.cli("snapshot", "save", "web", "two")
        require(code != 0 and "did not encrypt" in err, "%s %s" % (out, err))
        code, out, err = g.cli("snapshot", "list")
        require(code == 0 and "encrypted" in out, out + err)
        # Restored with the key of that file; what is another's or was changed is refused, and the guest goes on.
        g.mode("vmm", "")
        pid = g.pid("vmm")
        path = g.path("state/snapshots/")
        whole = snapshot_of("web", key=key, salt=salt)
        for name, bytes_, code_, text in (("other", snapshot_of("web", key=other, salt=salt), 77, "another key"),
                                          ("bit", whole[:60] + b"\1" + whole[61:], 65, "changed"),
                                          ("cut", whole[:-1], 65, "no snapshot"), ("plain", snapshot_of("web"), 0, "")):
            with open(path + name, "wb") as f:
                f.write(bytes_)
            if code_:
                code, out, err = g.cli("snapshot", "restore", "web", name)
                require(code == code_ and text in err and g.pid("vmm") == pid, "%s: %d %s" % (name, code, err))
                code, out, err = g.cli("snapshot", "verify", name)
                require(code == code_ and text in err, "verify %s: %d %s" % (name, code, err))
        require(g.cli("snapshot", "restore", "web", "one")[0] == 0, "it is restored")
        g.up_as("web", pid)
        last = g.ops("vmm", "config")[-1]
        require(last["fds"] == 5 and last["message"]["config"]["snapshot"] == {"attach": False, "seal": seal}, "%s" % last)
        pid = g.pid("vmm")
        require(g.cli("snapshot", "restore", "web", "plain")[0] == 0, "and one that is not encrypted")
        g.up_as("web", pid)
        require(g.ops("vmm", "config")[-1]["message"]["config"]["snapshot"] == {"attach": False}, "without a key")
        # Whoever has the key can do without the gateway.
        keyed(g, other)
        code, out, err = g.cli("snapshot", "verify", path + "one", "--key", g.path("key"))
        require(code == 77 and "another key" in err, "%d %s" % (code, err))
        code, out, err = g.cli("snapshot", "verify", path + "one")
        require(code == 77 and "no key" in err, "%d %s" % (code, err))
        keyed(g, key)
        code, out, err = g.cli("snapshot", "verify", path + "one", "--key", g.path("key"))
        require(code == 65 and "states" in err, "it can be read, but is empty: %d %s" % (code, err))
        require(not any(key.hex() in open(g.path(name), errors="replace").read() for name in ("said", "foretaste-vmm.log", "foretaste-ledger.log")),
                "the operator's key is nowhere")
    with Gateway() as g:
        g.start()
        g.up()
        os.makedirs(g.path("state/snapshots"), exist_ok=True)
        with open(g.path("state/snapshots/one"), "wb") as f:
            f.write(whole)
        pid = g.pid("vmm")
        for action in (("restore", "web", "one"), ("verify", "one")):
            code, out, err = g.cli("snapshot", *action)
            require(code == 77 and "has no key" in err and g.pid("vmm") == pid, "%s: %d %s" % (action, code, err))


def a_guest_starts_from_its_snapshot_where_that_fits():
    with Gateway(vmm="settles") as g:
        g.config["guests"]["web"].update(start="snapshot")
        g.start()
        g.up()

        def again(number=None):
            pid = g.pid("vmm")
            if number is None:
                g.cli("guest", "restart", "web")
            else:
                os.kill(pid, number)
            g.up_as("web", pid)
            last = g.ops("vmm", "config")[-1]
            return last["message"]["config"].get("snapshot"), last["fds"]

        cold = lambda: events(g, "cold-start")
        saves = lambda: len(g.ops("vmm", "snapshot"))
        require(len(cold()) == 1 and "web-start cannot be opened" in cold()[0], "there is none: %s" % cold())
        until(lambda: saves() == 1 and events(g, "snapshot-failed"), "it is saved when it has settled; the vmm cannot")
        origin = g.ops("vmm", "snapshot")[-1]["message"]["origin"]
        require(len(origin) == 32 and origin != "0" * 32, origin)

        def prepare(**kw):
            with open(g.path("foretaste-vmm.snapshot.bin"), "wb") as f:
                f.write(snapshot_of("web", **kw))

        prepare(origin=bytes.fromhex(origin))
        require(again() == (None, 4), "there is still none")
        until(lambda: saves() == 2 and events(g, "snapshot"), "it is saved")
        # From there on it is warm, and nothing is saved.
        require(again() == ({"attach": True}, 5) and "web starts from snapshot web-start" in events(g, "guest-restored")[-1], "warm")
        require("goes on from its snapshot" in events(g, "guest-up")[-1], "%s" % events(g, "guest-up"))
        require(again() == ({"attach": True}, 5) and saves() == 2 and len(cold()) == 2, "and again")
        # One that ends soon after it was started from there boots, and so does one that reboots; each is saved anew.
        require(again(signal.SIGKILL) == (None, 4) and "ended at once" in cold()[-1], "%s" % cold())
        until(lambda: saves() == 3 and len(events(g, "snapshot")) == 2, "it is saved")
        require(again() == ({"attach": True}, 5), "warm")
        require(again(signal.SIGUSR2) == (None, 4) and "wanted to reboot" in cold()[-1], "%s" % cold())
        until(lambda: saves() == 4 and len(events(g, "snapshot")) == 3, "it is saved")
        # Another image: the time of the kernel's file.
        os.utime(g.path("vmlinuz"), (1, 1))
        require(again() == (None, 4) and "another image" in cold()[-1], "%s" % cold())
        until(lambda: saves() == 5 and len(events(g, "snapshot")) == 4, "it is saved")
        prepare(origin=bytes.fromhex(g.ops("vmm", "snapshot")[-1]["message"]["origin"]))
        require(again() == (None, 4), "the one that was saved has the old origin")
        until(lambda: saves() == 6 and len(events(g, "snapshot")) == 5, "it is saved")
        # One that the vmm refuses, when the whole gateway starts: it boots, and the gateway is up.
        g.mode("vmm", "boots-only")
        g.stop()
        g.start()
        g.up()
        require(cold()[-1].endswith("another\\x1b processor") or "another" in cold()[-1], "%s" % cold())
        require(g.ops("vmm", "config")[-1]["fds"] == 4 and g.ops("vmm", "config")[-2]["fds"] == 5, "it was tried once")
        # An operator's snapshot counts once.
        g.mode("vmm", "")
        require(g.cli("snapshot", "restore", "web", "web-start", "--attach")[0] == 0, "restored")


TESTS = [
    a_guest_starts_from_its_snapshot_where_that_fits, snapshots_are_whole_or_not_there, snapshots_are_encrypted_with_a_key_of_their_own,
    each_child_gets_what_it_needs_and_nothing_else, a_dead_vmm_is_replaced_and_declared,
    a_dead_dataplane_is_replaced_and_linked, records_wait_for_a_new_ledger, a_start_that_fails_says_why_and_leaves_nothing,
    a_killed_supervisor_leaves_nothing_and_its_socket_is_taken_over, what_is_in_use_is_said,
    what_is_missing_or_forbidden_is_said, a_stop_is_in_order_and_complete, it_needs_no_root,
    a_shipper_of_another_user_lets_the_gateway_in_by_a_group, lies_cost_the_liar_alone, chatter_is_bounded,
    the_silent_are_named, the_control_socket_is_bounded, a_crash_loop_slows_down, each_end_is_told_with_its_own_cause, the_command_line_shows_it,
    the_feed_goes_to_who_listens_now_or_later, who_does_not_listen_is_tried_again_and_named_once,
    a_reader_that_hangs_up_at_once_is_not_tried_without_end,
    a_feed_is_followed_through_rotation, guests_are_stopped_and_started_one_by_one, a_guest_that_ended_follows_its_policy,
    a_processor_share_is_in_force_or_declared, many_guests_run, a_console_is_shown_without_its_tricks,
    suppressions_outlive_everything_but_their_time, a_reload_is_all_or_nothing,
    a_reload_that_the_dataplane_does_not_take_changes_nothing, former_rules_are_kept_as_long_as_something_needs_them, logs_are_reopened, modes_and_bypass_outlive_a_dataplane_process, what_operators_do_is_told_with_their_names, what_operators_do_is_told_though_they_leave_or_nobody_answers,
]


def outcome(name):
    """Runs one test. True: passed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an interrupted test tidies up, too
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        globals()[name]()
    except Failure as failure:
        print("FAIL %s: %s" % (name.replace("_", " "), failure), flush=True)
        return False
    print("ok   " + name.replace("_", " "), flush=True)
    return True


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("SKIP: the supervisor gives its children uids, which needs root")
        sys.exit(77)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an interrupted test tidies up, too
    chosen = [test for test in TESTS if len(sys.argv) <= 4 or sys.argv[4] in test.__name__]
    # Most of their time passes in waiting for time limits of the gateway's own: several at a time, each with its own gateway.
    with concurrent.futures.ProcessPoolExecutor(4, multiprocessing.get_context("fork")) as pool:
        results = list(pool.map(outcome, [test.__name__ for test in chosen]))
    sys.exit(0 if all(results) else 1)
