#!/usr/bin/env python3
"""Runs CPython's own test suite (Debian: libpython3.11-testsuite), natively and in a process guest, and compares.

A guest is one process, so the native run is put under a seccomp filter that answers ENOSYS to fork, vfork and every clone
that would make a second process, and into a network namespace with nothing but loopback: what fails there can't pass in a
guest either. Each module runs in a process of its own, with a time limit. Results are kept below target/, so that a run
that was stopped goes on where it was; --again forgets those of the modules that are named.

    scripts/cpython-testsuite.py run [MODULE...]      natively, then in the guest what passed natively
    scripts/cpython-testsuite.py compare              also count, per module that fails natively, what only the guest fails
    scripts/cpython-testsuite.py keep                 rewrite tests/cpython/passing.txt
    scripts/cpython-testsuite.py check                every module of passing.txt must still pass in the guest

Needs root, as a network namespace does and as /dev/kvm often does, and a release build of faasnap (--faasnap).
"""

import argparse
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "/usr/bin/python3.11"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
RESULTS = TARGET / "cpython"
PASSING = ROOT / "tests" / "cpython" / "passing.txt"
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "TERM": "dumb"}


# The native side's jail.

def filter_program():
    """The seccomp filter as classic BPF (linux/filter.h): see the module's text for what it refuses."""
    load, jump_equal, jump_set, answer = 0x20, 0x15, 0x45, 0x06
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.ENOSYS
    number, first_argument = 0, 16  # offsets in struct seccomp_data
    clone, fork, vfork, clone3, clone_thread = 56, 57, 58, 435, 0x00010000
    lines = [
        (load, 0, 0, number),
        (jump_equal, 5, 0, fork),
        (jump_equal, 4, 0, vfork),
        (jump_equal, 3, 0, clone3),  # glibc falls back to clone, whose flags a filter can see
        (jump_equal, 0, 3, clone),
        (load, 0, 0, first_argument),
        (jump_set, 1, 0, clone_thread),
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines), len(lines)


FILTER, FILTER_LENGTH = filter_program()
LIBC = ctypes.CDLL(None, use_errno=True)


def demand(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def jail():
    """Run in the child before it becomes the tests' interpreter."""
    clone_newnet, set_no_new_privs, set_seccomp, filter_mode = 0x40000000, 38, 22, 2
    demand(LIBC.unshare(clone_newnet), "a network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up_and_running, set_flags = 0x1 | 0x40, 0x8914
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sh14x", b"lo", up_and_running))
    demand(LIBC.prctl(set_no_new_privs, 1, 0, 0, 0), "no new privileges")
    code = ctypes.create_string_buffer(FILTER, len(FILTER))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    program = Program(FILTER_LENGTH, ctypes.addressof(code))
    demand(LIBC.prctl(set_seccomp, filter_mode, ctypes.byref(program), 0, 0), "the seccomp filter")


# Running one module.

def judge(status, output):
    """What regrtest's end says about a module: pass, skip, environment, fail or timeout."""
    if status is None:
        return "timeout"
    if "Tests result: SUCCESS" in output:
        return "skip" if re.search(r"^1 test skipped:", output, re.M) else "pass"
    if "NO TESTS RAN" in output or "NO TEST RUN" in output:
        return "skip"
    if re.search(r"^1 test altered the execution environment", output, re.M):
        return "environment"
    return "fail"


def run_module(side, module, options):
    tests = [PYTHON, "-m", "test.regrtest", "--timeout", str(options.timeout - 5), module]
    with tempfile.TemporaryDirectory(prefix="cpython-") as directory:
        if side == "native":
            command, environment, before = tests, ENVIRONMENT | {"TMPDIR": directory}, jail
        else:
            variables = [f"--env={name}={value}" for name, value in ENVIRONMENT.items()]
            command = [options.faasnap, "exec", "--memory", str(options.memory), "--cwd", "/tmp", *variables,
                       "--verbose", "--", *tests]
            environment, before, directory = os.environ, None, "/"
        started = time.monotonic()
        process = subprocess.Popen(command, env=environment, cwd=directory, preexec_fn=before, start_new_session=True,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, status = process.communicate(timeout=options.timeout)[0], process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, status = process.communicate()[0], None
    output = output.decode(errors="replace")
    log = RESULTS / side / f"{module}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(output)
    failing = re.findall(r"^(?:FAIL|ERROR): (\S+) \((\S+)\)", output, re.M)
    return {"verdict": judge(status, output), "status": status, "seconds": round(time.monotonic() - started, 1),
            "failing": sorted({f"{case}.{name}" for name, case in failing})}


class Results:
    """One side's results, written after every module."""

    def __init__(self, side):
        self.path = RESULTS / f"{side}.json"
        self.modules = json.loads(self.path.read_text()) if self.path.exists() else {}

    def put(self, module, result):
        self.modules[module] = result
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps(self.modules, indent=1, sort_keys=True))
        fresh.replace(self.path)

    def verdict(self, module):
        return self.modules.get(module, {}).get("verdict")

    def having(self, verdict):
        return sorted(module for module in self.modules if self.verdict(module) == verdict)


def all_modules():
    listing = "from test.libregrtest.runtest import findtests; print(*findtests())"
    return subprocess.run([PYTHON, "-c", listing], check=True, capture_output=True, text=True).stdout.split()


def side_by_side(options, native, guest, module):
    if native.verdict(module) is None:
        native.put(module, run_module("native", module, options))
    wanted = native.verdict(module) == "pass" or (options.everything and native.verdict(module) == "fail")
    if wanted and (options.again or guest.verdict(module) is None):
        guest.put(module, run_module("guest", module, options))
    worse = set(guest.modules.get(module, {}).get("failing", [])) - set(native.modules[module]["failing"])
    print(f"{module:40} {native.verdict(module):12} {guest.verdict(module) or '-':12} {' '.join(sorted(worse)[:4])}",
          flush=True)


def summary(native, guest):
    passing = native.having("pass")
    both = [module for module in passing if guest.verdict(module) == "pass"]
    run = [module for module in passing if guest.verdict(module)]
    counts = {verdict: len(native.having(verdict)) for verdict in ("pass", "skip", "environment", "fail", "timeout")}
    print("natively:", ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    share = 100 * len(both) / len(run) if run else 0
    print(f"in the guest: {len(both)} of {len(run)} that pass natively ({share:.1f} %)")
    for module in run:
        if module not in both:
            result = guest.modules[module]
            print(f"  {module}: {result['verdict']} {' '.join(result['failing'][:6])}")


def compare(native, guest):
    for module in native.having("fail"):
        if guest.verdict(module):
            worse = set(guest.modules[module]["failing"]) - set(native.modules[module]["failing"])
            if worse or guest.verdict(module) == "timeout":
                print(f"  {module}: {guest.verdict(module)}, {len(worse)} only in the guest: {' '.join(sorted(worse)[:8])}")


def check(options):
    broken = []
    for module in PASSING.read_text().split():
        result = run_module("guest", module, options)
        print(f"{module:40} {result['verdict']}", flush=True)
        if result["verdict"] != "pass":
            broken.append(module)
    if broken:
        sys.exit(f"{len(broken)} modules of passing.txt fail: {' '.join(broken)}; their output is in {RESULTS / 'guest'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "compare", "keep", "check"])
    parser.add_argument("modules", nargs="*", metavar="MODULE")
    parser.add_argument("--faasnap", default=str(TARGET / "release" / "faasnap"), help="the executable")
    parser.add_argument("--timeout", type=int, default=120, help="seconds per module")
    parser.add_argument("--memory", type=int, default=3072, help="MB of a guest")
    parser.add_argument("--again", action="store_true", help="run in the guest what has a result already")
    parser.add_argument("--everything", action="store_true", help="run in the guest what fails natively, too")
    options = parser.parse_intermixed_args()
    if not shutil.which(PYTHON) or not Path("/usr/lib/python3.11/test/test_json").is_dir():
        sys.exit("install the suite first: apt-get install libpython3.11-testsuite")
    native, guest = Results("native"), Results("guest")
    if options.command == "run":
        for module in options.modules or all_modules():
            side_by_side(options, native, guest, module)
        summary(native, guest)
    elif options.command == "compare":
        summary(native, guest)
        compare(native, guest)
    elif options.command == "keep":
        PASSING.parent.mkdir(parents=True, exist_ok=True)
        PASSING.write_text("".join(f"{module}\n" for module in guest.having("pass")))
    else:
        check(options)


if __name__ == "__main__":
    main()
