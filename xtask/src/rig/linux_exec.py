"""The command line's way to a linux guest: a kernel stored, its command line changed, a program run with a disk and a network of its
own, its status handed on; and one run with a tap device in a network namespace.

    linux_exec.py        with an empty home
"""
import os
import socket
import subprocess
import sys
import threading

FAASNAP, ROOT = os.environ["FAASNAP"], os.environ["FAASNAP_TEST_HOME"] + "/runtimes/python3.11/root"
# Addresses of this host: one that the guest may reach, one that it may not.
ALLOWED, OTHER = "198.51.100.17", "198.51.100.19"

PROGRAM = """
import os, socket, sys
def tried(address):
    try:
        stream = socket.create_connection((address, PORT), 60)
    except OSError as error:
        return type(error).__name__
    stream.sendall(b'ping\\n')
    return stream.makefile().readline().strip()
size, mounts = os.statvfs('/tmp'), [line.split() for line in open('/proc/mounts')]
print(sys.stdin.readline().strip(), open('/proc/cmdline').read().split('=')[-1].strip(),
      next(kind for _, place, kind, *_ in mounts if place == '/tmp'), size.f_blocks * size.f_frsize >> 20,
      open('/etc/resolv.conf').read().split()[1], tried(ALLOWED), tried(OTHER))
sys.exit(7)
"""
EXPECTED = "word edited ext4 700 169.254.78.1 ping ConnectionRefusedError"


def faasnap(*arguments, **more):
    return subprocess.run([FAASNAP, *arguments], stdout=subprocess.PIPE, text=True, **more)


def serve():
    for address in (ALLOWED, OTHER):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    listener = socket.create_server((ALLOWED, 0))

    def answer():
        stream = listener.accept()[0]
        stream.sendall(stream.recv(100))
        stream.close()

    threading.Thread(target=answer, daemon=True).start()
    return listener.getsockname()[1]


# What only a tap device lets through: other protocols, and connections from outside.
ON_TAP = """
import socket
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw.settimeout(60)
raw.sendto(bytes.fromhex('0800f7f700070001'), ('169.254.78.254', 0))
echo = raw.recv(100)[20:]
listener = socket.create_server(('', 8000))
print(echo.hex(), flush=True)
print(listener.accept()[0].recv(100).decode(), flush=True)
"""
NAMESPACE = """
tunctl -t tap0 >/dev/null && ifconfig lo 127.0.0.1 && ifconfig tap0 169.254.78.254 netmask 255.255.255.0 && echo up && exec sleep 1000
"""
FROM_OUTSIDE = "import socket; socket.create_connection(('169.254.78.10', 8000), 60).sendall(b'from outside')"


def on_a_tap_device(guest):
    holder = subprocess.Popen(["unshare", "-n", "sh", "-c", NAMESPACE], stdout=subprocess.PIPE, text=True)
    said = [holder.stdout.readline()]
    card = ["--tap", f"tap0@/proc/{holder.pid}/ns/net"]
    running = subprocess.Popen([FAASNAP, "exec", *guest, *card, "--", "python3", "-c", ON_TAP], stdout=subprocess.PIPE, text=True)
    said.append(running.stdout.readline())
    subprocess.run(["nsenter", "-t", str(holder.pid), "-n", "python3", "-c", FROM_OUTSIDE], check=True)
    said.append(running.stdout.readline())
    status = running.wait()
    holder.kill()
    if said != ["up\n", "0000fff700070001\n", "from outside\n"] or status != 0:
        sys.exit(f"on a tap device: {said} and status {status}")


def main():
    line = "console=ttyS0 quiet reboot=k panic=-1 pci=off rig=edited"
    faasnap("kernel", "import", "/rig/kernel/image", "--modules", "/rig/kernel/modules", check=True)
    faasnap("kernel", "edit", "--command-line", line, check=True)
    values = f"PORT, ALLOWED, OTHER = {serve()}, {ALLOWED!r}, {OTHER!r}\n"
    guest = ["--guest", "linux", "--memory", "256", "--root", ROOT]
    more = ["--tmp", "700", "--network", "--allow-network", ALLOWED]
    ended = faasnap("exec", *guest, *more, "--", "python3", "-c", values + PROGRAM, input="word\n")
    if (ended.stdout.strip(), ended.returncode) != (EXPECTED, 7):
        sys.exit(f"it said {ended.stdout!r} and ended with {ended.returncode}, not {EXPECTED!r} with 7")
    on_a_tap_device(guest)


main()
