"""A machine with KVM in QEMU's software emulation: what engine kvm is tested in where the host has no usable /dev/kvm. It has
Debian's kernel, busybox, the programs it is given with their libraries, and files; no network."""

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CACHE = os.environ.get("FORETASTE_CACHE", "/var/cache/foretaste")
# QEMU's SVM (up to 10.0 at least) has two mistakes that end a machine now and then, and both need a second thread at the same moment. An
# interrupt that VMRUN injects stays noted as an exception, so whoever asks a virtual processor to leave its loop before the next #VMEXIT
# (another one that stops all for an atomic access, the round of a single thread) has it delivered again, anywhere: between two SWAPGS
# that is a triple fault, of the guest or of the machine itself. And #VMEXIT clears a bit of the pending interrupts without a lock: one that
# comes at that moment is lost. So: one processor, and all threads on one of the host's, which no other outer machine has meanwhile.
PROCESSORS = int(os.environ.get("FORETASTE_OUTER_PROCESSORS", "1"))
PATIENCE = int(os.environ.get("FORETASTE_PATIENCE", "900"))  # seconds


def usable():
    """Is there a /dev/kvm that engine auto would take? Then what runs in the outer machine runs here, too, and before."""
    return os.access("/dev/kvm", os.R_OK | os.W_OK) and not os.path.exists("/sys/module/kvm_pvm")


def here(words, variables=()):
    """The test on this machine's own processor, where that can be: its exit code (0: it passed, or it cannot be)."""
    if not usable():
        return 0
    status = subprocess.run(words, env=dict(os.environ, CMOCKA_TEST_ABORT="0", **dict(v.split("=", 1) for v in variables)), check=False).returncode
    print("here: status %d" % status, flush=True)
    return 0 if status == 77 else status


def build():
    """The kernel and the initramfs; the reason if they cannot be had."""
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed"
    made = subprocess.run([os.path.join(SOURCE, "deploy", "outer", "build")], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return made.stdout.strip() or "deploy/outer/build failed" if made.returncode else None


def copy_into(tree, path, at=None):
    to = tree + (at or path)
    os.makedirs(os.path.dirname(to), exist_ok=True)
    shutil.copy2(os.path.realpath(path), to)  # with its time: by that Python knows what it has compiled


def libraries(*programs):
    listed = subprocess.run(["ldd", *programs], stdout=subprocess.PIPE, text=True, check=False).stdout
    return sorted(set(re.findall(r"(/\S+) \(0x", listed)))


@contextlib.contextmanager
def own_processor():
    """One of the host's, as a set; waits for one."""
    if PROCESSORS > 1:
        yield os.sched_getaffinity(0)
        return
    with contextlib.ExitStack() as files:
        locks = {n: files.enter_context(open(os.path.join(CACHE, ".outer.processor.%d" % n), "w")) for n in os.sched_getaffinity(0)}
        own = None
        while own is None:  # whichever is free first, not one of them whose user may take longest
            for number, lock in locks.items():
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    own = number
                    break
            else:
                time.sleep(1)
        yield {own}


def run(job, programs=(), files=None, disk=None, memory=1500, patience=PATIENCE):
    """Runs the shell script `job` with the programs in /bin and files ({path there: path here}) in their places; disk: a raw image,
    /dev/vda, whose changes are thrown away. What the console showed, and the job's status (None: it did not end).
    FORETASTE_CONSOLE: a file to follow the console in."""
    base = os.path.join(CACHE, "outer")
    with tempfile.TemporaryDirectory(prefix="foretaste-outer-", dir="/tmp") as work:
        tree = os.path.join(work, "tree")
        os.makedirs(tree)
        for program in programs:
            copy_into(tree, program, "/bin/" + os.path.basename(program))
            for library in libraries(program):
                copy_into(tree, library)
        for there, here in (files or {}).items():
            copy_into(tree, here, there)
        with open(os.path.join(tree, "job"), "w") as f:
            f.write(job)
        archive = os.path.join(work, "initrd.img")
        with open(archive, "wb") as f:
            with open(os.path.join(base, "initrd.img"), "rb") as first:
                shutil.copyfileobj(first, f)
            listed = subprocess.run(["find", ".", "-mindepth", "1"], cwd=tree, stdout=subprocess.PIPE, check=True).stdout
            subprocess.run(["cpio", "--quiet", "-R", "0:0", "-o", "-H", "newc"], cwd=tree, input=listed,
                           stdout=f, check=True)
        own = os.path.join(base, "qemu")  # deploy/outer/build
        qemu = ["qemu-system-x86_64"]
        if os.path.exists(own):
            qemu = [os.path.join(own, "qemu-system-x86_64"), "-L", os.path.join(own, "qemu"), "-L", os.path.join(own, "seabios")]
        command = qemu + ["-accel", "tcg,thread=multi", "-cpu", "EPYC,+umip", "-smp", str(PROCESSORS), "-m", str(memory),
                   "-net", "none", "-display", "none", "-serial", "stdio", "-no-reboot",
                   "-kernel", os.path.join(base, "vmlinuz"), "-initrd", archive,
                   # QEMU has one TSC for all processors
                   "-append", "console=ttyS0 quiet no_timer_check tsc=reliable audit=1"]
        if disk:
            command += ["-drive", "file=%s,if=virtio,format=raw,snapshot=on" % disk]
        shown = os.environ.get("FORETASTE_CONSOLE") or os.path.join(work, "console")
        with open(shown, "wb") as out, own_processor() as processors:
            try:
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, timeout=patience,
                               check=False, preexec_fn=lambda: os.sched_setaffinity(0, processors))
            except subprocess.TimeoutExpired:
                out.write(b"\nouter: not ended after %d s\n" % patience)
        with open(shown, errors="replace") as f:
            text = f.read().replace("\r", "")
    status = re.findall(r"^outer: status (\d+)$", text, re.M)
    return text, int(status[-1]) if status else None
