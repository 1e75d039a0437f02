# What a system call and the first touch of a page take here, in microseconds, less what the loop itself takes.
import mmap, os, sys, time

def each(action, times):
    start = time.perf_counter()
    for _ in range(times):
        action()
    return (time.perf_counter() - start) / times * 1e6

calls = min(each(os.getppid, 2000) for _ in range(5)) - min(each(int, 2000) for _ in range(5))
size, pages = 8 << 20, (8 << 20) // 4096
memory = mmap.mmap(-1, size)
def touch():
    start = time.perf_counter()
    for at in range(0, size, 4096):
        memory[at] = 1
    return (time.perf_counter() - start) / pages * 1e6
first = touch()
print(f"{sys.argv[1]:<14} system call {calls:8.1f} us   first touch {first - touch():8.1f} us a page")
