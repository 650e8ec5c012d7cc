#!/usr/bin/python3
"""Runs the program of a systemd unit as the unit confines it, without systemd: for test_package.py. What matters to the gateway
is done with the same kernel features that systemd uses: user and group, bounding and ambient sets, no_new_privs, system call filter with its groups as
systemd-analyze lists them, address families, a read-only tree with the unit's own directories, its own /dev, /tmp and /proc.

    unshare --mount --pid --net --fork --kill-child  unit.py UNIT ROOT [NAME=VALUE]...

ROOT is the tree that the program sees as /. NAME=VALUE go to its environment. SIGTERM is passed on; its exit code is ours.
"""

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys

SECCOMP = ctypes.CDLL("libseccomp.so.2", use_errno=True)
SECCOMP.seccomp_init.restype = ctypes.c_void_p
ALLOW, ERRNO_EPERM = 0x7FFF0000, 0x00050000 | 1
PR_SET_KEEPCAPS, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 8, 23, 24, 38, 47, 2
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_PACKET": 17}
LIBC = ctypes.CDLL(None, use_errno=True)
CAPABILITIES = """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT
SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG
WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE""".split()


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def settings(path):
    """The [Service] section: name -> list of values."""
    found = {}
    with open(path) as f:
        for line in f.read().split("[Service]")[1].split("\n[")[0].splitlines():
            match = re.match(r"(\w+)=(.*)", line)
            if match:
                found.setdefault(match[1], []).append(match[2].strip())
    return found


def system_calls(name):
    if not name.startswith("@"):
        return {name}
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], stdout=subprocess.PIPE, text=True, check=True).stdout
    calls = set()
    for word in re.findall(r"^ +(@?[\w-]+)$", listed, re.M):
        calls |= system_calls(word)
    return calls


def allowed_calls(unit):
    calls = system_calls("@default")  # systemd adds it to every allow-list
    for value in unit["SystemCallFilter"]:
        for name in value.lstrip("~").split():
            calls = calls - system_calls(name) if value.startswith("~") else calls | system_calls(name)
    return calls


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def identity(unit, root):
    """Numbers of User= and Group=, as the tree has them."""
    def number(path, name):
        with open(root + path) as f:
            return int([line.split(":")[2] for line in f if line.startswith(name + ":")][0])
    return number("/etc/passwd", unit["User"][0]), number("/etc/group", unit["Group"][0])


def give(directory, uid, gid):
    """The unit's directories belong to its user; what is in one that did not, too."""
    st = os.stat(directory)
    if (st.st_uid, st.st_gid) != (uid, gid):
        subprocess.run(["chown", "-hR", "%d:%d" % (uid, gid), directory], check=True)
    os.chmod(directory, 0o750)


def filesystem(unit, root):
    """strict: nothing can be written but what the unit names; its own /dev, /tmp and /proc."""
    require(unit["ProtectSystem"] == ["strict"] and unit["PrivateTmp"] == ["yes"] and unit["PrivateDevices"] == ["yes"],
            "the unit asks for a tree that this does not make")
    mount("--make-rprivate", "/")
    mount("--bind", root, root)
    for name in (unit["StateDirectory"][0], unit["RuntimeDirectory"][0]):
        for above in ("/var/lib/", "/run/"):
            os.makedirs(root + above + name, exist_ok=True)
            give(root + above + name, *identity(unit, root))
            mount("--bind", root + above + name, root + above + name)
    mount("-o", "remount,bind,ro", root)
    mount("-t", "tmpfs", "tmpfs", root + "/dev", "-o", "mode=0755,nosuid,noexec")
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        open(root + "/dev/" + name, "w").close()
        mount("--bind", "/dev/" + name, root + "/dev/" + name)
    mount("-o", "remount,ro", root + "/dev")
    mount("-t", "tmpfs", "tmpfs", root + "/tmp")
    mount("-t", "proc", "proc", root + "/proc", "-o", "hidepid=2" if unit["ProtectProc"] == ["invisible"] else "rw")
    mount("-t", "sysfs", "sysfs", root + "/sys", "-o", "ro")


def require(condition, text):
    if not condition:
        print("unit.py: " + text, file=sys.stderr)
        sys.exit(70)


def limits(unit):
    """Resource limits; returns capabilities that have to stand in where we may not raise a limit (in many containers)."""
    instead = []
    for name, default in (("MEMLOCK", "8388608"), ("CORE", "infinity")):  # systemd's own where the unit has none
        value = unit.get("Limit" + name, [default])[0]
        value = resource.RLIM_INFINITY if value == "infinity" else int(value)
        try:
            resource.setrlimit(getattr(resource, "RLIMIT_" + name), (value, value))
        except ValueError:
            instead += ["CAP_IPC_LOCK"] if name == "MEMLOCK" else []
    return instead


def drop_capabilities(unit, besides):
    kept = {CAPABILITIES.index(name[4:]) for name in unit["CapabilityBoundingSet"][0].split() + besides}
    number = 0
    while LIBC.prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if number not in kept:
            require(LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) == 0, "cannot drop capability %d" % number)
        number += 1
    return sum(1 << n for n in kept)


def become(uid, gid, mask):
    """Keeps the capabilities through the change of the uid, and through the program's execution."""
    require(LIBC.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0, "cannot keep capabilities")
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    require(LIBC.capset(header, (ctypes.c_uint32 * 6)(low, low, low, high, high, high)) == 0, "cannot set capabilities")
    for number in range(mask.bit_length()):
        if mask >> number & 1:
            require(LIBC.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, number, 0, 0) == 0, "cannot raise capability %d" % number)


def load_filter(calls, families):
    context = ctypes.c_void_p(SECCOMP.seccomp_init(ERRNO_EPERM))
    for name in calls:
        number = SECCOMP.seccomp_syscall_resolve_name(name.encode())
        if number < 0 or name == "socket":  # of another architecture; below
            continue
        require(SECCOMP.seccomp_rule_add(context, ALLOW, number, 0) == 0, "no rule for " + name)
    number = SECCOMP.seccomp_syscall_resolve_name(b"socket")
    for family in families:
        compare = Compare(0, 4, FAMILIES[family], 0)  # SCMP_CMP_EQ
        require(SECCOMP.seccomp_rule_add_array(context, ALLOW, number, 1, ctypes.byref(compare)) == 0, "no rule for " + family)
    require(SECCOMP.seccomp_load(context) == 0, "cannot load the system call filter")


def main():
    unit, root = settings(sys.argv[1]), os.path.abspath(sys.argv[2])
    environment = dict(pair.split("=", 1) for pair in sys.argv[3:])
    environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    environment["RUNTIME_DIRECTORY"] = "/run/" + unit["RuntimeDirectory"][0]
    environment["STATE_DIRECTORY"] = "/var/lib/" + unit["StateDirectory"][0]
    calls = allowed_calls(unit)
    command = unit["ExecStart"][0].split()
    require("socket" in calls and "execve" in calls and len(calls) > 100, "the filter is not understood")
    require(unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"], "the unit gives other capabilities than it bounds")
    ids = identity(unit, root)
    filesystem(unit, root)
    child = os.fork()
    if not child:
        os.chroot(root)
        os.chdir("/")
        os.setgroups([])
        os.umask(int(unit["UMask"][0], 8))
        instead = limits(unit)
        become(*ids, drop_capabilities(unit, instead))
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        load_filter(calls, unit["RestrictAddressFamilies"][0].split())
        os.execve(command[0], command, environment)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    while True:  # we are the first process here: orphans are ours, too
        pid, status = os.wait()
        if pid == child:
            sys.exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


main()
