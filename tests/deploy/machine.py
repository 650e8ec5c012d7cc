"""A Debian tree booted as a machine of its own, under its own kernel and systemd, in QEMU without hardware virtualization: for
test_package.py. Nothing of the machine it runs on is seen from there: no network, and the tree's disk is a copy."""

import os
import subprocess

PROBE = """#!/bin/bash
exec >/dev/ttyS0 2>&1
%s
systemctl poweroff -ff
"""
UNIT = """[Unit]
After=basic.target
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/probe
"""


def boot(root, work, images, commands, patience):
    """What the commands, run as root once the machine is up, write to its console. images: vmlinuz and initrd.img."""
    for path, text, mode in (("/probe", PROBE % commands, 0o755), ("/etc/systemd/system/probe.service", UNIT, 0o644)):
        with open(root + path, "w") as f:
            f.write(text)
        os.chmod(root + path, mode)
    disk, console = os.path.join(work, "disk.img"), os.path.join(work, "console")
    with open(disk, "wb") as f:
        f.truncate(3 << 30)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", root, disk], check=True)
    with open(console, "wb") as out:
        try:
            subprocess.run(
                ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1500", "-net", "none",
                 "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", os.path.join(images, "vmlinuz"),
                 "-initrd", os.path.join(images, "initrd.img"), "-drive", "file=%s,if=virtio,format=raw" % disk, "-append",
                 "console=ttyS0 quiet no_timer_check root=/dev/vda init=/lib/systemd/systemd systemd.unit=probe.service "
                 "systemd.unified_cgroup_hierarchy=1"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=patience, check=False)
        except subprocess.TimeoutExpired:
            out.write(b"\n(the machine was still running)\n")
    with open(console, errors="replace") as f:
        return f.read().replace("\r", "")
