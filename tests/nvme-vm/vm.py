"""A virtual machine with NVMe namespaces: a conventional one, one with Flexible Data Placement (FDP) and a zoned one.

QEMU emulates the CPU as well (TCG), so it runs anywhere, some twenty times slower. The guest is a kernel of Debian, busybox and
the `cfs` binary with the libraries that it loads, all in memory. It obeys shell commands over its serial line, and
its port 7400 and the ones after it are those of 10.0.2.15 in the network namespace that `enter_network` makes.
"""

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "fault"))
from stage import Failure

HERE = Path(__file__).resolve().parent
ADDRESS = "10.0.2.15"
PORT = 7400
HTTP_PORT = 7416
BOOT_SECONDS = 120
ANSWER_SECONDS = 180
MODULES = ["failover", "net_failover", "virtio_net"]
SMALL_BYTES = 1 << 30


def enter_network():
    """Starts this program again in a network namespace of its own, in which the guest's address is local: connections to
    it are handed to QEMU, which hands them to the guest."""
    if os.environ.get("CFS_NVME_VM_NETWORK") == "entered":
        # Connections come from 127.0.0.1, which QEMU calls 10.0.2.2: the guest would take its own address for a forged one.
        for command in ("link set lo up", f"addr add {ADDRESS}/32 dev lo", f"route replace local {ADDRESS} dev lo src 127.0.0.1 table local"):
            subprocess.run(["ip", *command.split()], check=True)
        return
    os.environ["CFS_NVME_VM_NETWORK"] = "entered"
    os.execvp("unshare", ["unshare", "--net", sys.executable, *sys.argv])


class Image:
    """The guest: kernel and initial file system, made anew in `place` from what `prepare` has fetched."""

    def __init__(self, place, fetched, binary):
        kernels = list((fetched / "boot").glob("vmlinuz-*"))
        if len(kernels) != 1 or not shutil.which("qemu-system-x86_64"):
            raise SystemExit("no kernel or no QEMU: run tests/nvme-vm/prepare first (as root)")
        self.kernel, self.initial = kernels[0], place / "initial.gz"
        root = place / "root"
        for name in ("bin", "dev", "proc", "sys", "tmp", "lib/modules", "lib64"):
            (root / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        shutil.copy(HERE / "guest/init", root / "init")
        shutil.copy(binary, root / "bin/cfs")
        for library in libraries(binary):
            target = root / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        for module in MODULES:
            (packed,) = fetched.glob(f"**/{module}.ko*")
            plain = subprocess.run(["xz", "-dc", packed], check=True, capture_output=True).stdout if packed.suffix == ".xz" else packed.read_bytes()
            (root / f"lib/modules/{module}.ko").write_bytes(plain)
        pack = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1"
        with open(self.initial, "wb") as out:
            subprocess.run(["sh", "-c", pack], cwd=root, check=True, stdout=out)
        shutil.rmtree(root)


def libraries(binary):
    """The libraries that a binary loads, and what loads them."""
    listed = subprocess.run(["ldd", binary], check=True, capture_output=True, text=True).stdout
    return [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]


class Machine:
    """One run of the virtual machine, from power on to power off."""

    def __init__(self, image, base, drives):
        """`drives`: the files of the namespaces conv, fdp and zns; those that are missing are small and empty."""
        log = open(base / "machine.log", "ab")
        command = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-nographic", "-nodefaults"]
        # Zones last until QEMU ends: such a machine is reset.
        command += [] if "zns" in drives else ["-no-reboot"]
        self.monitor = base / "monitor"
        command += ["-qmp", f"unix:{self.monitor},server=on,wait=off"]
        command += ["-serial", "stdio", "-kernel", str(image.kernel), "-initrd", str(image.initial), "-append", "console=ttyS0 quiet loglevel=0 panic=-1 mitigations=off"]
        forwards = [f"hostfwd=tcp:{ADDRESS}:{port}-{ADDRESS}:{port}" for port in (PORT, PORT + 1, HTTP_PORT)]
        command += ["-netdev", "user,id=net0," + ",".join(forwards), "-device", "virtio-net-pci,netdev=net0,romfile="]
        for name in ("conv", "fdp", "zns"):
            file = drives.get(name)
            if file is None:
                file = base / f"{name}.img"
                os.truncate(os.open(file, os.O_CREAT | os.O_RDWR), SMALL_BYTES)
            command += ["-drive", f"if=none,id={name},format=raw,cache=none,file={file}"]
        command += ["-device", "nvme,id=nv0,serial=conv", "-device", "nvme-ns,drive=conv,bus=nv0,nsid=1,logical_block_size=512"]
        command += ["-device", "nvme-subsys,id=sub0,nqn=fdp,fdp=on,fdp.runs=8M,fdp.nrg=1,fdp.nruh=8", "-device", "nvme,id=nv1,serial=fdp,subsys=sub0"]
        command += ["-device", "nvme-ns,drive=fdp,bus=nv1,nsid=1,logical_block_size=4096,physical_block_size=4096,fdp.ruhs=0;1;2;3;4;5"]
        command += ["-device", "nvme,id=nv2,serial=zns", "-device", "nvme-ns,drive=zns,bus=nv2,nsid=1,zoned=true,logical_block_size=4096,physical_block_size=4096,zoned.zone_size=64M,zoned.zone_capacity=64M,zoned.max_open=14,zoned.max_active=14"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
        self.said = b""
        self.log = log
        self.wait_up()

    def wait_up(self):
        self.read_until(b"guest up", BOOT_SECONDS)

    def reset(self):
        """As when the power comes back right after it went: the guest is gone, the device has its zones as they were."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(ANSWER_SECONDS)
            monitor.connect(str(self.monitor))
            lines = monitor.makefile("rw")
            for command in ("qmp_capabilities", "system_reset"):
                lines.write(json.dumps({"execute": command}) + "\n")
                lines.flush()
            for line in lines:
                if json.loads(line).get("event") == "RESET":
                    break
            else:
                raise Failure("the machine is not reset")
        self.said = b""

    def read_until(self, mark, seconds):
        """What the guest says up to a line that begins with `mark`, and the rest of that line."""
        end = time.monotonic() + seconds
        while True:
            lines = self.said.replace(b"\r", b"").split(b"\n")
            for at, line in enumerate(lines[:-1]):
                if line.startswith(mark):
                    self.said = b"\n".join(lines[at + 1:])
                    return b"\n".join(lines[:at]).decode(errors="replace"), line[len(mark):].decode().strip()
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                raise Failure(f"the machine says nothing more after:\n{self.said.decode(errors='replace')[-2000:]}")
            more = os.read(self.process.stdout.fileno(), 1 << 16)
            if not more:
                raise Failure(f"the machine ended, saying:\n{self.said.decode(errors='replace')[-2000:]}")
            self.log.write(more)
            self.log.flush()
            self.said += more

    def run(self, command, check=True, seconds=ANSWER_SECONDS):
        """Runs a shell command in the guest: what it printed, and with `check` False its exit code as well."""
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        text, code = self.read_until(b"answer ", seconds)
        if check and code != "0":
            raise Failure(f"in the machine, {command} ended with {code}:\n{text}")
        return text if check else (text, int(code))

    def power_off(self):
        """As when the plug is pulled: what QEMU has not handed to the drives is gone with it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
