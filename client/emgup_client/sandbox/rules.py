"""What one process may do. All else is refused by the kernel, for the process and whatever it starts."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from emgup_model.config import Frozen


class Rules(Frozen):
    """What is allowed. Paths that do not exist are left out; a folder stands for all that is below it.

    Attributes:
        execute: programs that may be started.
        read: files and folders to read.
        names: folders whose file names may be listed, without reading the files.
        write: folders and files to read and write. Links and sockets cannot be made in them.
        devices: device files.
        connect: TCP ports that may be connected to, at any address: the kernel's rules do not know addresses.
        bind: TCP ports that may be listened on.
        only_to: a port of 127.0.0.1 that every socket is connected to from the start, whatever address is asked for.
            With it, ``connect`` and ``bind`` are for nothing.
        names_by_udp: whether datagrams may be sent, for looking up host names.
        local_sockets: whether Unix sockets may be connected to, for the system's keyring.
    """

    execute: tuple[Path, ...] = ()
    read: tuple[Path, ...] = ()
    names: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    devices: tuple[Path, ...] = ()
    connect: tuple[int, ...] = ()
    bind: tuple[int, ...] = ()
    only_to: int | None = Field(None, ge=1, le=65535)
    names_by_udp: bool = False
    local_sockets: bool = False
