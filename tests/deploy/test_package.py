#!/usr/bin/python3
"""The Debian package as an operator meets it: built, clean for lintian, installed on a fresh Debian, checked, started as its unit
confines it, upgraded, removed. Arguments: SOURCE IMAGE-DIRECTORY (deploy/guest/build web). Needs root and a Debian mirror."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import machine

SOURCE, IMAGE = map(os.path.abspath, sys.argv[1:3])
CACHE = os.environ.get("FORETASTE_CACHE", "/var/cache/foretaste")
HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = "/etc/foretaste/foretaste.yaml"
PATIENCE = 300  # seconds until the test says that something does not happen; never a measure of speed


def skip(why):
    print("SKIP: " + why)
    sys.exit(77)


def require(condition, text):
    if not condition:
        raise AssertionError(text)


def say(text):
    print("%5.0f s  %s" % (time.monotonic() - STARTED, text), flush=True)


def run(*command, code=0, **kw):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False,
                          **kw)
    require(done.returncode == code, "%s: exit code %d, expected %d:\n%s" % (" ".join(command), done.returncode, code,
                                                                          done.stdout[-4000:]))
    return done.stdout


def inside(*command, code=0):
    """Runs a command in the fresh Debian; its mounts and processes end with it."""
    return run("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
               'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && exec chroot "$0" "$@"', root, *command, code=code,
               env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"})


def read(path):
    with open(root + path) as f:
        return f.read()


def write(path, text):
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    with open(root + path, "w") as f:
        f.write(text)


def mirror():
    """The machine's own Debian mirror and proxy, where it has one."""
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)", "Identifier: Packages")
    sources = sorted({"deb " + line[:-len(" Debian")] for line in targets.splitlines()
                      if re.match(r"\S+ bookworm\S* main Debian$", line)})
    proxy = run("apt-config", "shell", "proxy", "Acquire::http::Proxy").strip()
    options = ['--aptopt=Acquire::http::Proxy "%s"' % proxy.split("'")[1]] if proxy else []
    return sources or ["deb http://deb.debian.org/debian bookworm main"], options


def make_root(package):
    sources, options = mirror()
    with open(os.path.join(work, "sources.list"), "w") as f:
        f.write("\n".join(sources) + "\n")
    debs = os.path.join(CACHE, "debs")
    os.makedirs(debs, exist_ok=True)
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
         "mmdebstrap", "--mode=root", "--variant=apt", "--include=systemd", '--aptopt=APT::Install-Recommends "false"', *options,
         "--setup-hook=mkdir -p \"$1/var/cache/apt/archives\"",
         "--setup-hook=cp -n '%s'/*.deb \"$1/var/cache/apt/archives/\" 2>/dev/null || true" % debs,
         "--skip=essential/unlink,cleanup/apt/cache",
         "--customize-hook=cp '%s' \"$1/foretaste.deb\"" % package,
         "--customize-hook=chroot \"$1\" apt-get -q -y install /foretaste.deb",
         "--customize-hook=cp -n \"$1\"/var/cache/apt/archives/*.deb '%s/' && rm -f \"$1\"/var/cache/apt/archives/*.deb" % debs,
         "bookworm", root, os.path.join(work, "sources.list")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, check=False)
    if done.returncode and re.search(r"Could not (resolve|connect)|Temporary failure resolving|Failed to fetch", done.stdout):
        skip("no Debian mirror can be reached: " + [x for x in done.stdout.splitlines() if "Err:" in x or "Fail" in x or "Could" in x][0])
    require(done.returncode == 0, "mmdebstrap: " + done.stdout[-4000:])


def everything_is_there():
    files = inside("dpkg", "-L", "foretaste").split()
    for path in ("/usr/bin/foretaste", "/usr/libexec/foretaste/foretasted", "/usr/libexec/foretaste/foretaste-dataplane",
                 "/usr/libexec/foretaste/foretaste-ledger", "/usr/libexec/foretaste/foretaste-vmm"):
        require(path in files, path + " is not in the package")
        require("not found" not in inside("ldd", path), path + " lacks a library: " + inside("ldd", path))
    for path in (CONFIG, "/etc/foretaste/rules", "/etc/logrotate.d/foretaste", "/lib/systemd/system/foretaste.service",
                 "/usr/lib/sysusers.d/foretaste.conf", "/usr/share/foretaste/rules/web.yaml", "/usr/share/man/man1/foretaste.1.gz",
                 "/usr/share/man/man8/foretasted.8.gz", "/usr/share/man/man5/foretaste.yaml.5.gz", "/usr/share/bash-completion/completions/foretaste"):
        require(path in files, path + " is not in the package")
    require(read("/usr/share/bash-completion/completions/foretaste") == inside("foretaste", "completion", "bash"),
            "the completion is another program's")
    enabled = [path for path, _, names in os.walk(root + "/etc/systemd") for name in names if "foretaste" in name]
    require(not enabled, "the service is enabled: %s" % enabled)
    require(re.search(r"^foretaste:x:\d+:\d+:[^:]*:/var/lib/foretaste:/usr/sbin/nologin$", read("/etc/passwd"), re.M), "there is no user")
    said = inside("systemd-analyze", "verify", "--man=no", "/lib/systemd/system/foretaste.service")
    require("foretaste" not in said, "systemd-analyze verify: " + said)


def a_fresh_configuration_is_checked():
    said = inside("foretaste", "check", code=66)
    require(re.search(r"foretaste\.yaml:\d+:\d+: .*vmlinuz", said), "what lacks is not said: " + said[-500:])
    write("/var/lib/foretaste/images/web/vmlinuz", "kernel")
    said = inside("foretaste", "check")
    require("mode: observe" in said and "/etc/foretaste/rules/verdict.yaml" in said, "not what is in effect: " + said)
    said = inside("/usr/libexec/foretaste/foretasted", "--version")
    require(said.startswith("foretasted "), said)
    os.unlink(root + "/var/lib/foretaste/images/web/vmlinuz")


def it_runs_as_its_unit_confines_it():
    """With a real guest, behind a real port, until the guest is up; then a stop that is in order."""
    images = root + "/var/lib/foretaste/images/web"
    for name in ("vmlinuz", "initrd.img", "root.ext4"):
        shutil.copyfile(os.path.join(IMAGE, name), os.path.join(images, name))
    config = read(CONFIG)
    config = config.replace("iface=eth1", "iface=lo").replace("    initrd: none", "    initrd: " + images[len(root):] + "/initrd.img")
    config = config.replace("    disk: none", "    disk: " + images[len(root):] + "/root.ext4")
    shipped = read(CONFIG)
    require(config.count("/var/lib/foretaste/images/web/") == 3 and "iface=lo" in config, "the configuration is not understood")
    write(CONFIG, config)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(root + "/run/notify")
    os.chmod(root + "/run/notify", 0o777)  # as systemd's own: a service need not be root
    manager.settimeout(0.1)
    with open(os.path.join(work, "said"), "w") as said:
        service = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", 'ip link set lo up && exec "$@"', "sh",
             "/usr/bin/python3", "-B", os.path.join(HERE, "unit.py"), root + "/lib/systemd/system/foretaste.service", root,
             "NOTIFY_SOCKET=/run/notify", "WATCHDOG_USEC=2000000"], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    heard = []
    try:
        def listen():
            try:
                while True:
                    heard.extend(manager.recv(4096).decode().splitlines())
            except socket.timeout:
                pass

        def wait_for(wanted):
            end = time.monotonic() + PATIENCE
            while wanted not in heard:
                ended = service.poll() is not None
                listen()
                if wanted not in heard and (ended or time.monotonic() > end):
                    with open(os.path.join(work, "said")) as f:
                        require(False, "no %s, exit code %s; heard %s:\n%s" % (wanted, service.returncode, heard, f.read()[-3000:]))

        wait_for("READY=1")
        wait_for("STATUS=running: 1 of 1 guests up")
        wait_for("WATCHDOG=1")
        status = run("nsenter", "--mount", "--target", child_of(service.pid), "chroot", root, "foretaste", "status")
        require("web" in status and "dataplane" in status, status)
        st, adm = os.stat(root + "/var/lib/foretaste/feed.json"), re.search(r"^adm:x:(\d+)", read("/etc/group"), re.M)[1]
        require(st.st_mode & 0o777 == 0o640 and st.st_uid and st.st_gid == int(adm), "the feed is for its group: %s" % (st,))
        os.kill(int(child_of(service.pid)), signal.SIGTERM)
        wait_for("STOPPING=1")
        require(service.wait(PATIENCE) == 0, "it did not stop well: %s" % service.returncode)
    finally:
        service.kill()  # its PID namespace goes along
        service.wait()
        manager.close()
        os.unlink(root + "/run/notify")
    with open(os.path.join(work, "said")) as f:
        lines = f.read()
    require(not re.search("seccomp|permitted|permission|read-only|error|cannot", lines, re.I), "it was hindered:\n" + lines)
    feed = read("/var/lib/foretaste/feed.json")
    require("the gateway has started" in feed and "the gateway stops" in feed, "the feed: " + feed[-1000:])
    write(CONFIG, shipped)


def it_runs_under_systemd_itself():
    """On a machine of its own, with control groups of its own: no root, and a guest's share of the processor in force."""
    config = read(CONFIG)
    guest = config.replace("iface=eth1", "iface=lo").replace("    cpu: none", "    cpu: 50 %").replace("    cpu_weight: 100", "    cpu_weight: 300")
    # Compiling patterns takes long where each instruction is interpreted.
    guest = guest.replace("    screen: suspicious", "    screen: all").replace("rules: [rules/web.yaml]", "rules: []")
    require(guest.count("50 %") == 1 and "cpu_weight: 300" in guest and "rules: []" in guest, "the configuration is not understood")
    write(CONFIG, guest)
    write("/etc/systemd/system/foretaste.service.d/slow.conf", "[Service]\nTimeoutStartSec=%d\nWatchdogSec=%d\n" % (PATIENCE, PATIENCE))
    said = machine.boot(root, work, IMAGE, """
systemctl start foretaste; echo "start: $?"
systemctl show foretaste -p ActiveState -p User
group=/sys/fs/cgroup/system.slice/foretaste.service
for pid in $(cat $group/*/cgroup.procs); do echo "process $(cat /proc/$pid/comm): $(grep ^Uid /proc/$pid/status)"; done
echo "most: $(cat $group/*-guest-web/cpu.max)"
echo "weight: $(cat $group/*-guest-web/cpu.weight)"
nsenter --mount --target $(systemctl show -P MainPID foretaste) touch /sys/fs/cgroup/x /sys/fs/cgroup/system.slice/x /etc/x
foretaste guests
systemctl reload foretaste; echo "reload: $?"
systemctl stop foretaste; echo "stop: $?"
systemctl show foretaste -p Result
journalctl -u foretaste -o cat --no-pager
""", 4 * PATIENCE)
    for wanted in ("start: 0", "ActiveState=active", "User=foretaste", "most: 50000 100000", "weight: 300", "reload: 0", "stop: 0",
                   "Result=success"):
        require(wanted + "\n" in said, "no \"%s\":\n%s" % (wanted, said[-6000:]))
    for name in ("foretasted", "foretaste-datap", "foretaste-vmm", "foretaste-ledge"):
        require(re.search(r"^process %s: Uid:\t([1-9]\d*)(\t\1){3}$" % name, said, re.M), "%s is root, or missing:\n%s" % (name, said))
    require(said.count("Read-only file system") == 3, "it can write where it should not:\n" + said)
    require("not in force" not in said, said)
    write(CONFIG, config)
    for path in ("/probe", "/etc/systemd/system/probe.service", "/etc/systemd/system/foretaste.service.d/slow.conf"):
        os.unlink(root + path)
    os.rmdir(root + "/etc/systemd/system/foretaste.service.d")


def child_of(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        return f.read().split()[0]


def repacked(package, version, change):
    """The package again as another version whose shipped configuration is changed: an upgrade."""
    tree = os.path.join(work, "tree-" + version)
    run("dpkg-deb", "-R", package, tree)
    with open(tree + "/DEBIAN/control") as f:
        control = f.read()
    with open(tree + "/DEBIAN/control", "w") as f:
        f.write(re.sub(r"^Version: .*", "Version: " + version, control, flags=re.M))
    with open(tree + CONFIG, "a") as f:
        f.write(change)
    path = os.path.join(root, "foretaste-%s.deb" % version)
    run("dpkg-deb", "--root-owner-group", "-b", tree, path)
    return path[len(root):]


def an_upgrade_keeps_what_was_changed(package):
    shipped = read(CONFIG)
    inside("dpkg", "-i", repacked(package, "1000", "# one\n"))
    require(read(CONFIG) == shipped + "# one\n", "a configuration that nobody changed is not the new one")
    ours = read(CONFIG).replace("sensor: foretaste", "sensor: ours")
    require("sensor: ours" in ours, "no sensor in the configuration")
    write(CONFIG, ours)
    write("/etc/foretaste/ours.yaml", "[]\n")
    inside("dpkg", "-i", repacked(package, "1001", "# one\n"))
    require(read(CONFIG) == ours, "a changed configuration was not kept")
    inside("dpkg", "--force-confdef", "--force-confold", "-i", repacked(package, "1002", "# two\n"))
    require(read(CONFIG) == ours and read(CONFIG + ".dpkg-dist") == shipped + "# two\n",
            "a configuration that both sides changed was not kept beside the new one")
    require("sensor: ours" in inside("foretaste", "check"), "the kept configuration is not in effect")


def a_removal_leaves_the_operators_files():
    inside("dpkg", "--remove", "foretaste")
    require(os.path.exists(root + CONFIG) and os.path.exists(root + "/var/lib/foretaste/feed.json"), "removed, not purged")
    inside("dpkg", "--purge", "foretaste")
    left = sorted(os.path.relpath(os.path.join(path, name), root) for top in ("/etc/foretaste", "/var/lib/foretaste")
                  for path, _, names in os.walk(root + top) for name in names)
    # What a guest has written is its operator's as its image is.
    require(left == ["etc/foretaste/ours.yaml", "var/lib/foretaste/disks/web"] + [
        "var/lib/foretaste/images/web/" + name for name in ("initrd.img", "root.ext4", "vmlinuz")], "left is %s" % left)


STARTED = time.monotonic()
if os.geteuid() != 0:
    skip("a fresh Debian needs root")
if subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], stderr=subprocess.DEVNULL, check=False).returncode:
    skip("no namespaces here")
for program in ("mmdebstrap", "dpkg-buildpackage", "lintian", "dh", "systemd-analyze", "qemu-system-x86_64"):
    if not shutil.which(program):
        skip("there is no %s here" % program)
require(os.path.exists(os.path.join(IMAGE, "vmlinuz")), "there is no guest image in %s (deploy/guest/build web)" % IMAGE)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.makedirs(CACHE, exist_ok=True)
work = tempfile.mkdtemp(prefix=".package.", dir=CACHE)  # not /tmp, which may be small or mounted nodev
os.chmod(work, 0o755)
root = os.path.join(work, "root")
try:
    say("build and lintian")
    said = run(os.path.join(SOURCE, "deploy", "debian", "build"), "--out", work)
    require(not re.search(r"^[EWI]: ", said, re.M), "lintian is not content:\n" + said)
    packages = [os.path.join(work, name) for name in os.listdir(work) if re.match(r"foretaste_.*\.deb$", name)]
    require(len(packages) == 1, "packages: %s" % packages)
    say("a fresh Debian, and the package on it")
    make_root(packages[0])
    everything_is_there()
    a_fresh_configuration_is_checked()
    say("a run as the unit confines it")
    it_runs_as_its_unit_confines_it()
    say("a run under systemd itself, on a machine of its own")
    it_runs_under_systemd_itself()
    say("upgrades")
    an_upgrade_keeps_what_was_changed(packages[0])
    say("removal")
    a_removal_leaves_the_operators_files()
    say("done")
finally:
    shutil.rmtree(work)
