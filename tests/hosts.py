"""Two machines on one: each a network, processes, a name and shared memory of its own, with an SSH server.

They are namespaces of Linux, joined by a cable (veth); files are those of this machine, as if all were on a shared
disk. As on Debian, a host's own name is an address that no other reaches (127.0.1.1).
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

NAMES = ("node1", "node2")
_ADDRESSES = ("10.87.0.1", "10.87.0.2")
_TOOLS = ("ip", "unshare", "nsenter", "mount", "ssh", "ssh-keygen", "pdsh")
_SSHD = "/usr/sbin/sshd"
_KINDS = ("--mount", "--uts", "--ipc", "--pid", "--net")


def why_not() -> str:
    """Why there can be no such hosts here; empty where there can."""
    missing = [tool for tool in _TOOLS if not shutil.which(tool)] + ([] if Path(_SSHD).is_file() else ["sshd"])
    if missing:
        return f"needs {', '.join(missing)} (Debian: openssh-server, iproute2, pdsh)"
    if not Path("/etc/ssh/ssh_config").is_file():
        return "needs /etc/ssh/ssh_config, in whose place the hosts have their own"
    name = f"salmonn-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode == 0:
        inner = ["unshare", *_KINDS[:-1], "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
        cable = ["ip", "-n", name, "link", "add", "eth9", "type", "veth", "peer", "name", "eth8"]
        for command in (inner, cable):
            if tried.returncode == 0:
                tried = subprocess.run(command, capture_output=True, text=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return "" if tried.returncode == 0 else f"may make no namespaces ({tried.stderr.strip()}); as root, with NET_ADMIN"


class Hosts:
    """The two hosts while they run.

    Args:
        folder: Of their configuration.
        roots: Their first processes, as this machine numbers them.
    """

    def __init__(self, folder: Path, roots: list[int]) -> None:
        self.folder, self.roots = folder, roots

    def start(self, *words: str, host: int = 0, cwd: Path, environment: dict[str, str], **options) -> subprocess.Popen:
        """Starts a command on one of them."""
        enter = ["nsenter", f"--target={self.roots[host]}", *_KINDS, f"--wd={cwd}", "--"]
        return subprocess.Popen([*enter, *words], env=environment, text=True, **options)

    def run(
        self, *words: str, during: Callable[[], None] | None = None, timeout: float = 900, **options
    ) -> subprocess.CompletedProcess:
        """Runs a command on one of them, to its end; `during` is called when it has begun."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.start(*words, stdout=out, stderr=err, **options)
            try:
                if during:
                    during()
                process.wait(timeout)
            finally:
                if process.poll() is None:
                    process.kill()
                    self.kill(0)
                    self.kill(1)
            for file in (out, err):
                file.seek(0)
            return subprocess.CompletedProcess(words, process.returncode, out.read(), err.read())

    def kill(self, host: int) -> None:
        """Ends what runs on a host but its server, without a word."""
        for process in psutil.Process(self.roots[host]).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                process.kill()


@contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Two hosts for as long as the context lasts; they are `NAMES` to each other, and let each other in."""
    spaces = [f"salmonn-{os.getpid()}-{name}" for name in NAMES]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    (folder / "ssh_config").write_text(
        f"Host *\n  IdentityFile {folder}/key\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n"
        "  LogLevel ERROR\n  BatchMode yes\n"
    )
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/key\nAuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPidFile none\nMaxStartups 100\n"
    )
    with ExitStack() as stack:
        for space in spaces:
            subprocess.run(["ip", "netns", "add", space], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", space])
        cable = ["ip", "link", "add", "eth0", "netns", spaces[0], "type", "veth", "peer", "name", "eth0"]
        subprocess.run([*cable, "netns", spaces[1]], check=True)
        roots = []
        for name, space, address in zip(NAMES, spaces, _ADDRESSES, strict=True):
            others = "".join(f"{a} {n}\n" for a, n in zip(_ADDRESSES, NAMES, strict=True) if n != name)
            (folder / f"hosts_{name}").write_text(f"127.0.0.1 localhost\n127.0.1.1 {name}\n{others}")
            for words in (["addr", "add", f"{address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"]):
                subprocess.run(["ip", "-n", space, *words], check=True)
            subprocess.run(["ip", "-n", space, "link", "set", "lo", "up"], check=True)
            (folder / f"begin_{name}").write_text(
                f"set -e\nhostname {name}\nmount -t tmpfs tmpfs /dev/shm\nmount -t tmpfs tmpfs /run\nmkdir /run/sshd\n"
                f"mount --bind {folder}/ssh_config /etc/ssh/ssh_config\nmount --bind {folder}/hosts_{name} /etc/hosts\n"
                f"exec {_SSHD} -D -e -f {folder}/sshd_config\n"
            )
            begin = ["unshare", *_KINDS[:-1], "--fork", "--kill-child", "--mount-proc", "sh", folder / f"begin_{name}"]
            server = subprocess.Popen(["ip", "netns", "exec", space, *begin], stderr=(folder / name).open("w"))
            stack.callback(server.wait)
            stack.callback(server.kill)
            roots.append(_child_of(server))
        hosts = Hosts(folder, roots)
        for name in NAMES:
            _wait_for(hosts, name)
        yield hosts


def _child_of(server: subprocess.Popen) -> int:
    """The first process of a host's own, whose end is that of all others there."""
    until = time.monotonic() + 60
    while not (children := psutil.Process(server.pid).children()):
        assert server.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    return children[0].pid


def _wait_for(hosts: Hosts, name: str) -> None:
    """Waits until a host lets the first one in."""
    until = time.monotonic() + 60
    while (done := hosts.run("ssh", name, "hostname", cwd=Path("/"), environment={**os.environ})).stdout != f"{name}\n":
        assert time.monotonic() < until, done.stderr
        time.sleep(0.2)
