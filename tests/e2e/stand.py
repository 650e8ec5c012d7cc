"""A stand for end-to-end tests: two network namespaces joined by a virtual cable, the real gateway with a real guest in
one, and the test itself in the other. Everything it makes carries its own process id in its name and is gone afterwards.

    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        stand.get("/")

Arguments of every test: BUILD-DIRECTORY [IMAGE-DIRECTORY]; the image is by default the one that deploy/guest/build web
has made. Exit code 77 with a line "SKIP: why" where the test cannot run.

With FORETASTE_RECORD=1 in the environment every guest of every stand is recorded, and when the stand ends well each of its lives is
replayed from its beginning: with every state as recorded, to its very end. So the same test proves two things.
"""

import ctypes
import glob
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

CLIENT = "10.0.2.9"
GUEST = "10.0.2.15"
PREFIX = 24
# Guests run with the output verifier, but where the product's own speed matters (budgets, CPU shares, hundreds of trials).
AS_SHIPPED = {"verify": "off"}
CLONE_NEWNET = 0x40000000
PATIENCE = int(os.environ.get("FORETASTE_STAND_PATIENCE", "120"))  # seconds that something may take before the test says it does not happen; never a measure of speed


def skip(why):
    print("SKIP: " + why)
    sys.exit(77)


def run(*command, check=True, **kw):
    return subprocess.run(command, check=check, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)


class Failure(Exception):
    pass


def require(condition, text):
    if not condition:
        raise Failure(text)


def until(condition, what, patience=PATIENCE):
    """Waits for condition() to be true (its value is returned) or fails with what did not happen."""
    end = time.monotonic() + patience
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failure("did not happen within %d s: %s" % (patience, what))
        time.sleep(0.05)


class Stand:
    def __init__(self, argv, service=None, guest=None, top=None, cmdline=""):
        if len(argv) < 2:
            skip("usage: %s BUILD-DIRECTORY [IMAGE-DIRECTORY]" % argv[0])
        cache = os.environ.get("FORETASTE_CACHE", "/var/cache/foretaste")
        if os.geteuid() != 0:
            skip("network namespaces need root")
        self.build = os.path.abspath(argv[1])
        self.images = os.path.abspath(argv[2] if len(argv) > 2 else os.path.join(cache, "guest", "web"))
        self.source = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
        for name in ("vmlinuz", "initrd.img", "root.ext4"):
            if not os.access(os.path.join(self.images, name), os.R_OK):
                skip("no guest image in %s (deploy/guest/build makes it)" % self.images)
        self.tag = "ft%d" % os.getpid()
        self.directory = tempfile.mkdtemp(prefix="foretaste-e2e-")
        os.chmod(self.directory, 0o755)
        self.process = None
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.recorded = os.environ.get("FORETASTE_RECORD") == "1"
        self.config = self.make_config(service or {}, guest or {}, top or {}, cmdline)

    def make_config(self, service, guest, top, cmdline):
        settings = {}
        with open(os.path.join(self.images, "guest.env")) as f:
            for line in f:
                match = re.match(r'(\w+)="?([^"\n]*)"?', line)
                if match:
                    settings[match[1]] = match[2]
        rules = os.path.join(self.source, "config", "rules")
        base = {
            "state": os.path.join(self.directory, "state"),
            "control": os.path.join(self.directory, "control.sock"),
            "uplink": {"port": "net_af_packet0,iface=" + self.tag + "g"},
            "guests": {
                "web": {
                    "kernel": os.path.join(self.images, "vmlinuz"),
                    "initrd": os.path.join(self.images, "initrd.img"),
                    "disk": os.path.join(self.images, "root.ext4"),
                    "cmdline": (settings["GUEST_CMDLINE"] + " " + cmdline).strip(),
                    "memory": settings.get("GUEST_MEMORY", "256 MiB"),
                    "mac": "52:54:00:00:02:0f",
                    "address": GUEST,
                    "verify": "on",
                }
            },
            "services": {
                "http": {
                    "guest": "web", "protocol": "tcp", "port": 80, "mode": "enforce", "screen": "suspicious",
                    "rules": [os.path.join(rules, "web.yaml")], "on_exception": "drop", "hold_time": "5 min",
                }
            },
            "verdict_rules": os.path.join(rules, "verdict.yaml"),
            "correlation_rules": os.path.join(rules, "correlation.yaml"),
            "canary": {"every": "0 s"},  # tests count holds, clones and requests
            # On a machine with other work a trial takes long, which is not what tests are about; see hold_time.
            "clone": {"wall": "2 min"},
        }
        quick = self.quickstart_normal()
        if quick:
            base["services"]["http"]["normal"] = quick
        base["services"]["http"].update(service)
        base["guests"]["web"].update(guest)
        base.update(top)
        if self.recorded:
            base["guests"]["web"]["journal"] = "on"
            base["journal"] = {"checkpoint_every": "24 h", "check_every": 5000000, "quota": "4 GiB"}
        return base

    def quickstart_normal(self):
        """What is normal for the image's web service is written once, in config/quickstart.yaml."""
        got = run(self.program("foretaste"), "check", "--json", "--config",
                  os.path.join(self.source, "config", "quickstart.yaml"), check=False)
        try:
            services = json.loads(got.stdout)
            services = services.get("services") or services["config"]["services"]
            return next(iter(services.values()))["normal"]
        except (ValueError, KeyError, StopIteration):
            return None

    def program(self, name):
        for path in glob.glob(os.path.join(self.build, "src", "*", name)):
            return path
        raise Failure("%s is not in %s" % (name, self.build))

    # ---- life --------------------------------------------------------------------------------------------------

    def __enter__(self):
        try:
            self.make_net()
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def make_net(self):
        self.netns = [self.tag + "c", self.tag + "g"]
        for name in self.netns:
            run("ip", "netns", "add", name)
        run("ip", "link", "add", self.tag + "c", "netns", self.netns[0], "type", "veth",
            "peer", "name", self.tag + "g", "netns", self.netns[1])
        for name in self.netns:
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "netns", "exec", name, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", check=False)
            run("ip", "-n", name, "link", "set", name, "up")
        run("ip", "-n", self.netns[0], "address", "add", "%s/%d" % (CLIENT, PREFIX), "dev", self.netns[0])
        fd = os.open("/run/netns/" + self.netns[0], os.O_RDONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(fd, CLONE_NEWNET):
            raise Failure("cannot enter namespace %s" % self.netns[0])
        os.close(fd)

    def start(self):
        path = os.path.join(self.directory, "foretaste.yaml")
        with open(path, "w") as f:
            json.dump(self.config, f, indent=1)  # JSON is YAML
        self.log = open(os.path.join(self.directory, "gateway.log"), "ab")
        environment = dict(os.environ, FORETASTE_STAND=self.tag)
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.netns[1], self.program("foretaste"), "run", "--config", path],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=environment, start_new_session=True,
            preexec_fn=end_with_parent)

    def stop(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise Failure("the gateway did not stop")
        return self.process.returncode if self.process else None

    def __exit__(self, kind, value, trace):
        if kind is SystemExit:  # main() inside of the stand: it has said what failed
            kind = None if value.code == 0 else kind
        if kind is not None:
            self.show_logs()
        left = []
        try:
            if self.process:
                try:
                    self.stop()
                    left = until_gone(self.processes, 10)
                    if self.recorded and kind is None:
                        self.replay_all()
                finally:
                    for pid, _ in self.processes():
                        os.kill(pid, signal.SIGKILL)
        finally:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.setns(self.home, CLONE_NEWNET)
            for name in getattr(self, "netns", []):
                run("ip", "netns", "delete", name, check=False)
            shutil.rmtree(self.directory, ignore_errors=True)
        if left and kind is None:
            raise Failure("processes left behind: %s" % left)

    def replay_all(self):
        """Each life of each recorded guest is what it was."""
        for directory in sorted(glob.glob(os.path.join(self.directory, "state", "journal", "*"))):
            guest = os.path.basename(directory)
            lives = sorted({int(name.split("-")[0]) for name in os.listdir(directory) if name.endswith(".checkpoint")})
            require(lives, "guest %s was not recorded" % guest)
            for life in lives:
                got = run(self.program("foretaste"), "replay", directory, "--run", str(life), "--from", "1", "--disk",
                          self.config["guests"][guest]["disk"], "--json", check=False)
                lines = got.stdout.splitlines()
                report = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
                require(got.returncode == 0, "the replay of guest %s, life %d: exit %d: %s" % (guest, life, got.returncode, got.stderr))
                # A life that was ended in order has a hash of everything at its end; one that was killed ends with its last input.
                require(report["checks"] > 10, "the replay of guest %s compared nothing: %s" % (guest, report))
                print("     replayed %s, life %d: %s at %d instructions, %d states as recorded, %d frames in and %d out, in %.1f s" % (
                    guest, life, report["end"], report["instructions"], report["checks"], report["frames_in"], report["frames_out"],
                    report["took_s"]), flush=True)

    def show_logs(self):
        for name in sorted(glob.glob(os.path.join(self.directory, "*.log")) +
                           glob.glob(os.path.join(self.directory, "state", "**", "*.log"), recursive=True)):
            with open(name, errors="replace") as f:
                text = f.read()
            print("---- %s (last 4000 characters)\n%s" % (os.path.basename(name), text[-4000:]), file=sys.stderr)
        feed = self.feed()[-12:]
        print("---- feed", *map(json.dumps, feed), sep="\n", file=sys.stderr)

    def processes(self, name=None):
        """(pid, program) of every process of this stand's gateway, clones included."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            try:
                with open("/proc/%s/environ" % entry, "rb") as f:
                    if b"FORETASTE_STAND=" + self.tag.encode() not in f.read().split(b"\0"):
                        continue
                program = os.path.basename(os.readlink("/proc/%s/exe" % entry))
            except OSError:
                continue
            if name is None or program == name:
                found.append((int(entry), program))
        return sorted(found)

    def children(self, pid):
        with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
            return [int(x) for x in f.read().split()]

    # ---- talking to it ---------------------------------------------------------------------------------------------

    def cli(self, *arguments, check=True):
        got = run(self.program("foretaste"), *arguments, "--json", "--control", self.config["control"], check=False)
        if check and got.returncode:
            raise Failure("foretaste %s: exit %d: %s" % (" ".join(arguments), got.returncode, got.stderr.strip()))
        try:
            return json.loads(got.stdout)
        except ValueError:
            return [json.loads(line) for line in got.stdout.splitlines() if line.strip()]

    def refusal(self, *arguments):
        """What the command line says when it fails, which it has to."""
        got = run(self.program("foretaste"), *arguments, "--json", "--control", self.config["control"], check=False)
        require(64 <= got.returncode <= 78, "foretaste %s: exit %d" % (" ".join(arguments), got.returncode))
        return got.stderr.strip()

    def get(self, path, timeout=60, connection=None):
        """(status, body) of a GET, or (None, why) when the connection was cut."""
        c = connection or http.client.HTTPConnection(GUEST, 80, timeout=timeout)
        try:
            c.request("GET", path)
            answer = c.getresponse()
            return answer.status, answer.read().decode("latin-1")
        except (OSError, http.client.HTTPException) as error:
            return None, repr(error)
        finally:
            if not connection:
                c.close()

    def wait_for_guest(self):
        def answers():
            if self.process.poll() is not None:
                raise Failure("the gateway ended with exit code %s" % self.process.returncode)
            try:
                with socket.create_connection((GUEST, 80), timeout=2):
                    pass
            except OSError:
                return False
            return self.get("/", timeout=10)[0] == 200
        until(answers, "the guest's web server answers")

    def feed(self):
        lines = []
        for path in glob.glob(os.path.join(self.directory, "state", "**", "*.json"), recursive=True):
            with open(path) as f:
                for line in f:
                    if line.endswith("\n"):
                        lines.append(json.loads(line))
        return lines

    def alerts(self):
        return [line for line in self.feed() if line.get("event_type") == "alert"]

    def verdicts(self):
        """(verdict, disposition) of each hold, in the order of the feed."""
        ours = [a["alert"]["context"]["foretaste"] for a in self.alerts()]
        return [(o["verdict"], o["disposition"]) for o in ours if "verdict" in o]

    def wait_alerts(self, count):
        return until(lambda: len(self.alerts()) >= count and self.alerts(), "%d alerts in the feed" % count)

    def touched(self, name):
        return self.get("/touched/" + name)[0] == 200

    def requests(self):
        """What nginx in the live guest says that it has served."""
        return self.get("/requests")[1]


def end_with_parent():
    """A test that is killed leaves no gateway behind: prctl(PR_SET_PDEATHSIG, SIGTERM)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def until_gone(processes, patience):
    end = time.monotonic() + patience
    while processes() and time.monotonic() < end:
        time.sleep(0.05)
    return processes()


def main(tests):
    """Runs test functions in turn; each makes its own stand(s). Ends the process."""
    # A test that is told to end (its time is up, Ctrl-C) leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0
    for test in tests:
        try:
            test()
            print("ok   %s" % test.__name__.replace("_", " "), flush=True)
        except Failure as failure:
            failed += 1
            print("FAIL %s: %s" % (test.__name__.replace("_", " "), failure), flush=True)
    print("%d passed, %d failed" % (len(tests) - failed, failed))
    sys.exit(1 if failed else 0)
