"""`mixbit`, `python` and `torchrun` as processes of their own that start at once: for tests that start many.

A command imports for seconds and works for milliseconds. Here a server imports once and forks for each command, which
then has the folder, the environment, the streams and the exit code of one that was started in the usual way.

    with Warm() as warm:
        subprocess.run(["mixbit", "list", "models"], env={**os.environ, "PATH": warm.path})

Tests take the fixture `warm` of conftest.py: one server for the whole session.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import types
from pathlib import Path
from typing import Any

# What commands import, beside mixbit itself; what is absent is left out.
HEAVY = (
    "PIL.Image",
    "onnx",
    "onnxruntime",
    "plotly.graph_objects",
    "pydantic",
    "qonnx.core.modelwrapper",
    "rich.progress",
    "rich.table",
    "scipy.optimize",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.distributed.run",
    "torch.export",
    "typer",
)
# Networks of the zoo that commands open again and again, and the shape of an image.
NETWORKS = {"digits-resnet": (1, 8, 8), "resnet20": (3, 32, 32)}
PROGRAMS = ("mixbit", "python", "torchrun")
_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    asked = dict(program={program!r}, words=sys.argv[1:], folder=os.getcwd(), environment=dict(os.environ))
    text = json.dumps(asked).encode()
    socket.send_fds(server, [len(text).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(text)
    code = server.recv(1)
sys.exit(code[0] if code else 70)
"""


class Warm:
    """A server, and the folder with the programs that ask it.

    Args:
        until: id of a process: a server that nobody closes ends seconds after it.
    """

    def __init__(self, until: int | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="warm"))  # a short name: addresses of sockets end at 107 bytes
        address = str(self.folder / "socket")
        for program in PROGRAMS:
            client = self.folder / program
            client.write_text(_CLIENT.format(python=sys.executable, address=address, program=program))
            client.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(address)
            server.listen(16)  # who asks before the imports are done waits
            number = server.fileno()
            command = [sys.executable, str(Path(__file__)), str(number), str(until or os.getpid()), str(self.folder)]
            self._process = subprocess.Popen(command, pass_fds=[number], stdin=subprocess.DEVNULL)

    @property
    def path(self) -> str:
        """For PATH: these programs first, then those of this environment."""
        return path_of(self.folder)

    def close(self) -> None:
        """Ends the server."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Warm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def path_of(folder: Path) -> str:
    """For PATH, where one process has told another the folder of its server."""
    return os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def _imports() -> None:
    import mixbit

    ours = (module.name for module in pkgutil.walk_packages(mixbit.__path__, "mixbit."))
    for name in (*HEAVY, *(name for name in ours if not name.endswith("__main__"))):
        with contextlib.suppress(ImportError):  # a package that is not here; a C library that is no module
            importlib.import_module(name)
    import torch

    from mixbit.export.float_onnx import float_onnx

    torch.set_num_threads(1)
    mixbit.network.capture(torch.nn.Linear(2, 2), torch.zeros(1, 2))  # loads what the first capture loads
    with contextlib.suppress(ImportError):  # and the first ONNX file of PyTorch's own exporter
        one_onnx_registry()
        float_onnx(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    _networks()


def _networks() -> None:
    """Commands follow again what they quantize, and not the network of the zoo that they begin with."""
    import torch

    from mixbit import models
    from mixbit.network import _export, capture

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.remembered import remembering

    del sys.path[0]
    _export.export = remembering(_export.export)
    for name, shape in NETWORKS.items():
        capture(models.build(name), torch.zeros(2, *shape))


@functools.cache
def one_onnx_registry() -> None:
    """PyTorch's exporter makes its table of ONNX functions, hundreds, at every call; from here on it does so once.

    Raises:
        ImportError: the packages that it takes them from are not here.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    made_once = functools.cache(ONNXRegistry.from_torchlib)
    ONNXRegistry.from_torchlib = staticmethod(made_once)  # type: ignore[method-assign]


def _run(program: str, words: list[str]) -> None:
    sys.argv = [program, *words]
    if program == "mixbit":
        from mixbit import cli

        cli.main(words)
        return
    if program == "torchrun":
        import torch.distributed.run

        os.environ["PYTHON_EXEC"] = str(shutil.which("python"))  # so that what it launches starts at once too
        torch.distributed.run.main(words)
        return
    words = words[1:] if words[0] == "-u" else words
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, os.getcwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.modules["__main__"] = module = types.ModuleType("__main__")
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), module.__dict__)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def _answer(connection: socket.socket) -> int:
    """In a child of the server, whose own child becomes the command; its exit code, negative where a signal ended it.

    Where who asked is gone, the command is killed.
    """
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    with connection.makefile("rb") as stream:
        asked = json.loads(stream.read(int.from_bytes(head, "big")))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    reading, writing = os.pipe()  # open as long as the command lives
    command = os.fork()
    if command == 0:
        os.close(reading)
        connection.close()
        code = _become(asked, streams)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 255)
    for number in (*streams, writing):
        os.close(number)
    ended, _, _ = select.select([connection, reading], [], [])
    if reading not in ended:
        os.kill(command, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])


def _become(asked: dict[str, Any], streams: list[int]) -> int:
    """The command that was asked for; its exit code."""
    for number, stream_number in enumerate(streams):
        os.dup2(stream_number, number)
        os.close(stream_number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    try:
        _run(asked["program"], asked["words"])
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def alive(process: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def serve(listening: socket.socket, until: int) -> None:
    """Forks for every command, until a process is gone."""
    gc.disable()  # nearly all that is made here stays
    _imports()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    listening.settimeout(5)
    while alive(until):
        try:
            connection, _ = listening.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            connection.settimeout(None)
            try:
                code = _answer(connection)
                if code >= 0:
                    connection.send(bytes([code]))
            finally:  # also where who asked is gone by now
                os._exit(0)
        connection.close()


if __name__ == "__main__":
    try:
        serve(socket.socket(fileno=int(sys.argv[1])), until=int(sys.argv[2]))
    finally:
        shutil.rmtree(sys.argv[3], ignore_errors=True)
