"""Hostile code in a process of the client, from the first moment on: Python runs this file before any other code.

It tries everything that EMGUP_ATTACKS asks for (a JSON file: module of the process, targets) and writes what came of it
to its folder for temporary files.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path


def tcp(port, host="127.0.0.1", flags=0):
    with socket.socket() as s:
        s.settimeout(None if flags else 5)
        if flags:
            s.sendto(b"CANARY", flags, (host, port))
        else:
            s.connect((host, port))
            s.sendall(b"CANARY")


def udp(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"CANARY", ("127.0.0.1", port))


def listen():
    with socket.socket() as s:
        s.listen()


def bind():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))


def call(name, *arguments):
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def run(program):
    subprocess.run([program], check=True)


def unix(path):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)


def attempts(target):
    folder = Path(target["folder"])
    home = Path(target["home"])
    yield "tcp", lambda: tcp(target["tcp"])
    yield "tcp to another address", lambda: tcp(target["tcp"], "127.0.0.2")
    yield "tcp fast open", lambda: tcp(target["tcp"], flags=socket.MSG_FASTOPEN)
    yield "udp", lambda: udp(target["udp"])
    yield "unix", lambda: unix(target["unix"])
    yield "abstract unix", lambda: unix("\0" + target["abstract"])
    yield "raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    yield "multipath tcp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
    yield "packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    yield "netlink", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    yield "io_uring", lambda: call("syscall", 425, 1, None)
    yield "listen", listen
    yield "bind", bind
    yield "read ssh", lambda: (folder / "user" / ".ssh" / "id").read_text()
    yield "read through a link", lambda: _read_through(folder / "user" / ".ssh" / "id")
    yield "list", lambda: list((folder / "user").iterdir())
    yield "write", lambda: (folder / "user" / "new").write_text("x")
    for name in ("keys/supernode", "keys/superexec.secret", "audit.jsonl", "uses.jsonl", "gate/loopback.key"):
        yield f"read {name}", lambda name=name: (home / name).read_bytes()
    for name in ("policy.yaml", "client.yaml", "trusted_release_keys.txt", "uses.jsonl", "audit.jsonl"):
        yield f"write {name}", lambda name=name: (home / name).open("r+b").close()
        yield f"truncate {name}", lambda name=name: os.truncate(home / name, 1)
        yield f"replace {name}", lambda name=name: _replace(home / name)
    yield "open to others", lambda: home.chmod(0o755)
    yield "access list", lambda: os.setxattr(home, "user.open", b"x")
    yield "watch", lambda: call("inotify_add_watch", ctypes.CDLL(None).inotify_init1(0), bytes(folder / "user"), 0xFFF)
    yield "run a program", lambda: run("/bin/true")
    for name, pid in target["pids"].items():
        yield f"signal {name}", lambda pid=pid: os.kill(pid, 0)
        yield f"stop {name}", lambda pid=pid: os.kill(pid, signal.SIGCONT)
        yield f"memory of {name}", lambda pid=pid: Path(f"/proc/{pid}/mem").open("rb").close()
        yield f"environment of {name}", lambda pid=pid: Path(f"/proc/{pid}/environ").read_bytes()
        yield f"ptrace {name}", lambda pid=pid: call("ptrace", 16, pid, None, None)


def _read_through(path):
    link = Path(tempfile.gettempdir()) / "link"
    with contextlib.suppress(OSError):
        link.symlink_to(path)
    return link.read_text()


def _replace(path):
    fresh = Path(tempfile.gettempdir()) / "fresh"
    fresh.write_text("x")
    fresh.replace(path)


def attack():
    target = json.loads(Path(os.environ["EMGUP_ATTACKS"]).read_text())
    found = {}
    for name, attempt in attempts(target):
        try:
            found[name] = repr(attempt())
        except OSError as e:
            found[name] = f"refused: {e.strerror or e}"
        except Exception as e:
            found[name] = f"refused: {e!r}"
    out = Path(tempfile.gettempdir()) / f"attacks-{os.getpid()}.json"
    out.write_text(json.dumps(found))


if sys.orig_argv[1:3] == ["-m", os.environ.get("EMGUP_ATTACKED")]:
    attack()
