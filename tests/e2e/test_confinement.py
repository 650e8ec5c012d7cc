#!/usr/bin/python3
"""What each process of a running gateway has given up, as the kernel tells it; and a vmm that is made to do what it never does:
it is killed, its guest goes down and comes back, and nobody else notices."""

import ctypes
import os
import sys

from stand import Stand, main, require, until

UID_BASE = 64000
PROGRAMS = ["foretaste-ledger", "foretaste-dataplane", "foretaste-vmm"]

SYS_SOCKET = 41
PTRACE_ATTACH, PTRACE_DETACH, PTRACE_GETREGS, PTRACE_SETREGS, PTRACE_PEEKTEXT = 16, 17, 12, 13, 1
REGISTERS = ("r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss fs_base gs_base ds es fs "
             "gs").split()


class Registers(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in REGISTERS]


def status(pid):
    with open("/proc/%d/status" % pid) as f:
        return dict(line.rstrip("\n").split(":", 1) for line in f)


def make_it_call(pid, number):
    """Has a process that waits in a system call make another one, where it stands. False: it was not waiting."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    require(libc.ptrace(PTRACE_ATTACH, pid, None, None) == 0, "cannot attach to the vmm")
    os.waitpid(pid, 0)
    registers = Registers()
    libc.ptrace(PTRACE_GETREGS, pid, None, ctypes.addressof(registers))
    instruction = libc.ptrace(PTRACE_PEEKTEXT, pid, registers.rip - 2, None) & 0xffff
    waits = instruction == 0x050f  # syscall
    if waits:
        registers.rip -= 2
        registers.rax, registers.orig_rax = number, 2**64 - 1
        registers.rdi, registers.rsi, registers.rdx = 2, 1, 0
        libc.ptrace(PTRACE_SETREGS, pid, None, ctypes.addressof(registers))
    libc.ptrace(PTRACE_DETACH, pid, None, None)
    return waits


def processes_have_given_up_what_they_do_not_need():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        for index, program in enumerate(PROGRAMS):
            pids = [pid for pid, _ in stand.processes(program)]
            require(pids, "%s does not run" % program)
            for pid in pids:
                says = status(pid)
                who = "%s (%d): " % (program, pid)
                uid = str(UID_BASE + index)
                require(says["Uid"].split() == [uid] * 4 and says["Gid"].split() == [uid] * 4, who + "its ids are " + says["Uid"])
                require(not says["Groups"].split(), who + "it has groups")
                for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
                    require(int(says[kind], 16) == 0, who + "%s is %s" % (kind, says[kind]))
                require(says["NoNewPrivs"].strip() == "1", who + "it could gain privileges")
                for task in os.listdir("/proc/%d/task" % pid):
                    with open("/proc/%d/task/%s/status" % (pid, task)) as f:
                        require("Seccomp:\t2\n" in f.read(), who + "a thread without a filter")
        vmm = stand.processes("foretaste-vmm")[0][0]
        kinds = [os.readlink("/proc/%d/fd/%s" % (vmm, fd)) for fd in os.listdir("/proc/%d/fd" % vmm)]
        odd = [k for k in kinds if k.startswith("/") and not k.startswith(("/dev/null", "/memfd:", stand.directory, stand.images))]
        require(not odd, "the vmm holds files that are not its guest's: %s" % odd)


def a_vmm_that_misbehaves_is_killed_and_only_its_guest_goes_down():
    with Stand(sys.argv) as stand:
        stand.wait_for_guest()
        before = {name: stand.processes(name)[0][0] for name in PROGRAMS}
        until(lambda: make_it_call(before["foretaste-vmm"], SYS_SOCKET), "the vmm waits, its guest being idle")
        until(lambda: any(line.get("event_type") == "engine" and "seccomp" in line["engine"]["message"] for line in stand.feed()),
              "the feed says that the filter killed it")
        stand.wait_for_guest()
        after = {name: stand.processes(name)[0][0] for name in PROGRAMS}
        require(after["foretaste-vmm"] != before["foretaste-vmm"], "the vmm went on")
        for name in PROGRAMS[:2]:
            require(after[name] == before[name], "%s went down as well" % name)


if __name__ == "__main__":
    main([processes_have_given_up_what_they_do_not_need, a_vmm_that_misbehaves_is_killed_and_only_its_guest_goes_down])
