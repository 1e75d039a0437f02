"""Threads that wait in every kind of system call that can wait, each woken after the guest went on in another machine.

Prints what each call gave, one line each; save_and_restore.rs knows what it has to be.
"""

import ctypes, fcntl, os, queue, select, signal, socket, struct, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
started = time.monotonic()
data = {str(i): [i] * 10 for i in range(5000)}
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGUSR2})
q = queue.Queue()
lock = threading.Lock(); lock.acquire()
wakers, threads = [], []
def case(waker=None):
    def add(f):
        def run():
            try: print(f'{f.__name__} {f()}\n', end='', flush=True)
            except BaseException as error: print(f'{f.__name__} raised {error!r}\n', end='', flush=True)
        threads.append(threading.Thread(target=run, name=f.__name__))
        if waker: wakers.append(waker)
        return f
    return add
def pipe(): return os.pipe()

@case(lambda: q.put(7))
def futex_queue(): return q.get()
@case(lock.release)
def futex_lock(): return lock.acquire()
r1, w1 = pipe()
@case(lambda: os.write(w1, b'hello'))
def read_pipe(): return os.read(r1, 10)
r2, w2 = pipe()
fcntl.fcntl(w2, fcntl.F_SETFL, os.O_NONBLOCK)
try:
    while True: os.write(w2, b'x' * 4096)
except BlockingIOError: pass
fcntl.fcntl(w2, fcntl.F_SETFL, 0)
def drain():
    while select.select([r2], [], [], 0.2)[0]: os.read(r2, 65536)
@case(drain)
def write_pipe(): return os.write(w2, b'y' * 8192)
s1, s2 = socket.socketpair()
@case(lambda: s2.send(b'over'))
def recv_unix(): return s1.recv(10)
d1, d2 = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
@case(lambda: d2.sendmsg([b'da', b'ta']))
def recvmsg_unix(): return d1.recvmsg(10)[0]
listener = socket.create_server(('127.0.0.1', 4000))
@case(lambda: socket.create_connection(('127.0.0.1', 4000)).close())
def accept_tcp(): return listener.accept()[1][0]
t1 = socket.create_server(('127.0.0.1', 4001)); t2 = socket.create_connection(('127.0.0.1', 4001)); t3 = t1.accept()[0]
@case(lambda: t3.sendall(b'tcp'))
def recv_tcp(): return t2.recv(10)
u1 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); u1.bind(('127.0.0.1', 4002))
@case(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'udp', ('127.0.0.1', 4002)))
def recv_udp(): return u1.recvfrom(10)[0]
e1 = libc.eventfd(0, 0)
@case(lambda: os.write(e1, struct.pack('Q', 3)))
def read_eventfd(): return struct.unpack('Q', os.read(e1, 8))[0]
tf = libc.timerfd_create(time.CLOCK_MONOTONIC, 0)
libc.timerfd_settime(tf, 0, struct.pack('4q', 0, 0, 1, 500000000), None)
@case()
def read_timerfd(): return struct.unpack('Q', os.read(tf, 8))[0], time.monotonic() - started >= 1.4
r3, w3 = pipe()
@case(lambda: os.write(w3, b'p'))
def poll(): p = select.poll(); p.register(r3, select.POLLIN); return p.poll(60000) == [(r3, select.POLLIN)]
r4, w4 = pipe()
@case(lambda: os.write(w4, b's'))
def select_(): return select.select([r4], [], [], 60)[0] == [r4]
r5, w5 = pipe()
ep = select.epoll(); ep.register(r5, select.EPOLLIN | select.EPOLLET)
@case(lambda: os.write(w5, b'e'))
def epoll(): return ep.poll(60) == [(r5, select.EPOLLIN)]
@case()
def nanosleep(): time.sleep(1.5); return time.monotonic() - started >= 1.5
@case(lambda: os.kill(os.getpid(), signal.SIGUSR1))
def sigwait(): return signal.sigwait({signal.SIGUSR1}) == signal.SIGUSR1
sf = libc.signalfd(-1, struct.pack('Q', 1 << (signal.SIGUSR2 - 1)), 0)
@case(lambda: os.kill(os.getpid(), signal.SIGUSR2))
def read_signalfd(): return struct.unpack('I', os.read(sf, 128)[:4])[0] == signal.SIGUSR2
f1 = open('/tmp/locked', 'w'); f2 = open('/tmp/locked', 'w')
fcntl.flock(f1, fcntl.LOCK_EX)
@case(lambda: fcntl.flock(f1, fcntl.LOCK_UN))
def flock(): return fcntl.flock(f2, fcntl.LOCK_EX)
f3 = open('/tmp/range', 'w'); f4 = open('/tmp/range', 'w')
def ofd_lock(kind): return struct.pack('hhqqi4x', kind, 0, 0, 1, 0)
F_OFD_SETLK, F_OFD_SETLKW = 37, 38
fcntl.fcntl(f3, F_OFD_SETLK, ofd_lock(fcntl.F_WRLCK))
@case(lambda: fcntl.fcntl(f3, F_OFD_SETLK, ofd_lock(fcntl.F_UNLCK)))
def record_lock(): return len(fcntl.fcntl(f4, F_OFD_SETLKW, ofd_lock(fcntl.F_WRLCK)))

def full(send):
    """Calls `send` until nothing more fits."""
    try:
        while True: send()
    except BlockingIOError: pass
def drained(receive, socket, last):
    """Takes all there is; the last bytes must be `last`."""
    def drain():
        data = b''
        while select.select([socket], [], [], 0.5)[0]: data += receive(65536)
        assert data.endswith(last)
    return drain
t4 = socket.create_connection(('127.0.0.1', 4001)); t5 = t1.accept()[0]
t4.setblocking(False); full(lambda: t4.send(b'x' * 4096)); t4.setblocking(True)
@case(drained(t5.recv, t5, b'y' * 8192))
def send_tcp(): return t4.sendall(b'y' * 8192)
s3, s4 = socket.socketpair()
s3.setblocking(False); full(lambda: s3.send(b'x' * 4096)); s3.setblocking(True)
@case(drained(s4.recv, s4, b'z' * 8192))
def send_unix(): return s3.sendall(b'z' * 8192)
d3, d4 = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
d3.setblocking(False); full(lambda: d3.send(b'x')); d3.setblocking(True)
@case(drained(d4.recv, d4, b'last'))
def send_unix_datagram(): return d3.send(b'last')
t6 = socket.create_connection(('127.0.0.1', 4001)); t7 = t1.accept()[0]
t6.send(b'part')
@case(lambda: t6.send(b'rest'))
def recv_waitall(): return t7.recv(8, socket.MSG_WAITALL)
ul = socket.socket(socket.AF_UNIX); ul.bind('/tmp/listening'); ul.listen(0)
def connect_unix():
    s = socket.socket(socket.AF_UNIX); s.connect('/tmp/listening'); return s
ua = socket.socket(socket.AF_UNIX); ua.bind('/tmp/empty'); ua.listen()
waiting = []
def fill_backlog():
    while True:
        s = socket.socket(socket.AF_UNIX); s.setblocking(False)
        s.connect('/tmp/listening'); waiting.append(s)
full(fill_backlog)
@case(lambda: [ul.accept() for _ in range(len(waiting) + 1)])
def connect_full_backlog(): return connect_unix().getpeername()
@case(lambda: waiting.append(socket.socket(socket.AF_UNIX)) or waiting[-1].connect('/tmp/empty'))
def accept_unix(): return ua.accept()[1]
e2 = libc.eventfd(0, 0)
os.write(e2, struct.pack('Q', 2**64 - 2))
@case(lambda: os.read(e2, 8))
def write_eventfd(): return os.write(e2, struct.pack('Q', 1))
r6, w6 = pipe()
@case(lambda: os.write(w6, b'vector'))
def readv(): parts = [bytearray(2), bytearray(8)]; return os.readv(r6, parts), bytes(parts[0])
r9, w9 = pipe()
os.set_blocking(w9, False); full(lambda: os.write(w9, b'x' * 4096)); os.set_blocking(w9, True)
source = open('/tmp/source', 'w+b'); source.write(b's' * 100); source.flush()
@case(drained(lambda count: os.read(r9, count), r9, b's' * 100))
def sendfile(): return os.sendfile(w9, source.fileno(), 0, 100)

# Calls that Python makes in another form, by their numbers.
def call(*arguments):
    result = libc.syscall(*[ctypes.c_long(argument) for argument in arguments])
    return result if result >= 0 else OSError(ctypes.get_errno(), 'failed')
PPOLL, PSELECT, EPOLL_PWAIT2, FUTEX = 271, 270, 441, 202
# The signals that others wait for stay blocked.
kept = ctypes.create_string_buffer(struct.pack('Q', 1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGUSR2 - 1)), 128)
ra, wa = pipe()
polled = ctypes.create_string_buffer(struct.pack('ihh', ra, select.POLLIN, 0))
@case(lambda: os.write(wa, b'p'))
def ppoll(): return call(PPOLL, ctypes.addressof(polled), 1, 0, ctypes.addressof(kept), 8)
rb, wb = pipe()
read_set = ctypes.create_string_buffer(bytes(rb // 8) + bytes([1 << rb % 8]), 128)
@case(lambda: os.write(wb, b's'))
def pselect(): return call(PSELECT, rb + 1, ctypes.addressof(read_set), 0, 0, 0, 0)
rc, wc = pipe()
ep2 = select.epoll(); ep2.register(rc, select.EPOLLIN)
events = ctypes.create_string_buffer(12)
@case(lambda: os.write(wc, b'e'))
def epoll_pwait2(): return call(EPOLL_PWAIT2, ep2.fileno(), ctypes.addressof(events), 1, 0, 0, 8)
word = ctypes.c_uint32(threading.get_native_id())
FUTEX_LOCK_PI, FUTEX_UNLOCK_PI = 6, 7
@case(lambda: call(FUTEX, ctypes.addressof(word), FUTEX_UNLOCK_PI, 0, 0, 0, 0))
def futex_lock_pi():
    locked = call(FUTEX, ctypes.addressof(word), FUTEX_LOCK_PI, 0, 0, 0, 0)
    return locked, word.value & 0x3fffffff == threading.get_native_id()
@case()
def sigtimedwait(): return signal.sigtimedwait({signal.SIGUSR2}, 1.5), time.monotonic() - started >= 1.4
until = struct.pack('qq', *divmod(time.monotonic_ns() + 1_500_000_000, 1_000_000_000))
@case()
def sleep_until(): return libc.clock_nanosleep(time.CLOCK_MONOTONIC, 1, until, None), time.monotonic() - started >= 1.5

# Woken by a handler in their own thread: EINTR.
handled = []
signal.signal(signal.SIGALRM, lambda number, frame: handled.append(number))
signal.signal(signal.SIGHUP, lambda number, frame: handled.append(number))
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
def interrupted(name, number):
    return lambda: signal.pthread_kill(next(t.ident for t in threads if t.name == name), number)
def errno_of(result): return result, ctypes.get_errno() == 4
@case(interrupted('pause', signal.SIGALRM))
def pause(): return errno_of(libc.pause())
@case(interrupted('sigsuspend', signal.SIGHUP))
def sigsuspend(): return errno_of(libc.sigsuspend(kept))
@case()
def sem_timedwait():
    c = threading.Condition()
    with c: return c.wait(1.5), time.monotonic() - started >= 1.4
for t in threads: t.start()
open('/tmp/note', 'w').write('kept')
time.sleep(0.3)
print('ready', flush=True)
x = 0
deadline = time.monotonic() + 1.2
while time.monotonic() < deadline: x += 1
for wake in wakers: wake()
for t in threads: t.join(30)
assert not [t for t in threads if t.is_alive()], 'a thread is stuck'
assert data == {str(i): [i] * 10 for i in range(5000)}
assert open('/tmp/note').read() == 'kept'
print('done', flush=True)
