#!/usr/bin/env python3
"""What the node adds to an invocation: warm over one connection, calls a second under load, and cold. And what it takes to be
there with a thousand functions.

    scripts/node-figures.py FAASNAP HOME FUNCTION warm|load|cold|idle

FUNCTION answers `{}` to `{}`. `load` needs wrk. `cold` takes turns with the engine: some restores by `faasnap invoke
--restores`, some calls through the node with the snapshot's files as the page cache has them, round by round, since a machine's
speed drifts. `idle` registers 1,000 functions like FUNCTION, each with code of its own, in a copy of HOME. What the worker costs warm without a node says the example `warm` of instance-pool.
"""

import base64
import io
import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile

ROUNDS, PER_ROUND = 6, 6
IDLE = 1000


class Node:
    def __init__(self, faasnap, home, function, *options):
        command = [faasnap, "--home", home, "serve", "--listen", "127.0.0.1:0", "--auth", "none", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        found = re.search(r"http://([^ :]+):(\d+)", self.process.stdout.readline())
        self.address = (found[1], int(found[2]))
        self.path = f"/2015-03-31/functions/{function}/invocations"
        self.request = f"POST {self.path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{{}}".encode()

    def connect(self):
        connection = socket.create_connection(self.address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def call(self, connection):
        """Milliseconds from the request to the whole answer."""
        begun = time.perf_counter()
        connection.sendall(self.request)
        text = b""
        while not re.search(rb"\r\n\r\n.+", text, re.S):
            text += connection.recv(65536)
        assert text.startswith(b"HTTP/1.1 200") and text.endswith(b"\r\n\r\n{}"), text
        return (time.perf_counter() - begun) * 1e3

    def stop(self):
        self.process.terminate()
        self.process.wait()


def report(what, times):
    times = sorted(times)
    at = lambda share: times[int((len(times) - 1) * share)]
    print(f"{what:24} median {at(0.5):.2f} ms, 99 of 100 within {at(0.99):.2f}, worst {times[-1]:.2f}, over 40 ms: {sum(time > 40 for time in times)} of {len(times)}")


def warm(*what):
    node = Node(*what)
    connection = node.connect()
    # The first is cold, and a snapshot is made beside the next ones.
    for _ in range(200):
        node.call(connection)
    time.sleep(2)
    report("warm, over HTTP", [node.call(connection) for _ in range(3000)])
    node.stop()


def load(*what):
    node = Node(*what)
    node.call(node.connect())
    time.sleep(3)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write('wrk.method = "POST"\nwrk.body = "{}"\n')
        script.flush()
        for connections in ("1", "2", "4", "16"):
            command = ["wrk", "-t1", "-c", connections, "-d6s", "--latency", "-s", script.name, f"http://{node.address[0]}:{node.address[1]}{node.path}"]
            text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rate, half, most = (re.search(pattern, text)[1] for pattern in (r"Requests/sec: +(\S+)", r"50% +(\S+)", r"99% +(\S+)"))
            failed = re.search(r"Non-2xx.*", text)
            print(f"{connections:>2} connections: {rate} a second, median {half}, 99 of 100 within {most}{failed and ', ' + failed[0] or ''}")
    node.stop()


def cold(faasnap, home, function):
    engine, node_times = [], []
    for number in range(ROUNDS):
        command = [faasnap, "--home", home, "invoke", function, "--payload", "{}", "--restores", str(PER_ROUND)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        engine.append(float(re.search(r"request to answer +median (\S+) ms", text)[1]))
        node = Node(faasnap, home, function, "--keep-alive", "0")
        times = []
        for _ in range(PER_ROUND):
            # The last instance has ended, and spare workers are ready.
            time.sleep(0.7)
            times.append(node.call(node.connect()))
        node_times.append(statistics.median(times))
        node.stop()
    print("medians of rounds, ms\nengine", engine, "\nnode  ", [round(time, 1) for time in node_times])
    print(f"median: engine {statistics.median(engine):.1f}, node {statistics.median(node_times):.1f}")


def idle(faasnap, home, function):
    with tempfile.TemporaryDirectory(dir=pathlib.Path(home).parent) as folder:
        copy = f"{folder}/home"
        subprocess.run(["cp", "-a", "--reflink=auto", home, copy], check=True)
        node = Node(faasnap, copy, function)
        base = base_of(node)
        like = json.load(urllib.request.urlopen(f"{base}/{function}/configuration"))
        settings = {name: like[name] for name in ("Runtime", "Handler", "MemorySize")}
        settings["Role"] = "arn:aws:iam::000000000000:role/r"
        for number in range(IDLE):
            code = io.BytesIO()
            with zipfile.ZipFile(code, "w") as target:
                target.writestr("app.py", f"# {number}\ndef handler(event, context): return {{}}\n")
            body = settings | {"FunctionName": f"idle-{number}", "Code": {"ZipFile": base64.b64encode(code.getvalue()).decode()}}
            urllib.request.urlopen(urllib.request.Request(base, json.dumps(body).encode()))
        node.stop()
        begun = time.perf_counter()
        node = Node(faasnap, copy, "idle-500")
        started = time.perf_counter() - begun
        time.sleep(5)
        memory = lambda: int(re.search(r"Pss: +(\d+)", pathlib.Path(f"/proc/{node.process.pid}/smaps_rollup").read_text())[1]) / 1024
        at_rest = memory()
        for _ in range(20):
            names = {found["FunctionName"] for found in json.load(urllib.request.urlopen(f"{base_of(node)}?MaxItems=50"))["Functions"]}
        assert len(names) == 50
        node.call(node.connect())
        print(f"{IDLE} functions: start to the first line {started:.2f} s, {at_rest:.1f} MiB at rest, {memory():.1f} after some lists and a call")
        node.stop()


def base_of(node):
    return "http://%s:%d/2015-03-31/functions" % node.address


if __name__ == "__main__":
    *what, which = sys.argv[1:]
    {"warm": warm, "load": load, "cold": cold, "idle": idle}[which](*what)
