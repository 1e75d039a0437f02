// A program that does what a process guest has to survive: `hostile WHAT [ARGUMENTS]`. Each way prints a line when it is
// through, and exits with 1 when something was possible that must not be.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/if_packet.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int failures;

static void must(int holds, const char *what) {
    if (!holds) {
        printf("FAILED: %s (errno %d)\n", what, errno);
        failures++;
    }
}

static uint64_t state = 88172645463325252ull;

static uint64_t any(void) {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
}

// Interrupts whatever waits.
static void on_alarm(int signal) { (void)signal; }

static void interrupt_often(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    struct itimerval often = {{0, 20000}, {0, 20000}};
    must(setitimer(ITIMER_REAL, &often, NULL) == 0, "setitimer");
}

// A wild pointer in every argument of every system call.
static int wild(void) {
    static const uint64_t addresses[] = {
        0xfff, 0x10000, 0x7f7ffffff000, 0x7f8000000000, 0x7f8000002000, 0x7fffffffffff, 0x800000000000,
        0xffff800000000000, 0xffffffffff600000, 0xfffffffffffffff8,
    };
    // What would take the program's own memory, output or registers away when it succeeds by chance.
    static const int left_out[] = {
        SYS_exit, SYS_exit_group, SYS_rt_sigreturn, SYS_close, SYS_close_range, SYS_dup2, SYS_dup3, SYS_mmap, SYS_munmap, SYS_mremap, SYS_mprotect,
        SYS_madvise, SYS_brk, SYS_arch_prctl, SYS_setitimer, SYS_alarm, SYS_kill, SYS_tkill, SYS_tgkill,
        SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_clone, SYS_set_tid_address,
    };
    interrupt_often();
    int calls = 0;
    for (int number = 0; number < 470; number++) {
        int skip = 0;
        for (size_t i = 0; i < sizeof left_out / sizeof *left_out; i++) skip |= number == left_out[i];
        for (size_t i = 0; !skip && i < sizeof addresses / sizeof *addresses; i++) {
            uint64_t a = addresses[i];
            syscall(number, a, a, a, a, a, a);
            // A descriptor, a length that fits, flags 0: deeper into the call.
            syscall(number, 0, a, 64, 0, a, 64);
            calls += 2;
        }
    }
    printf("wild: %d calls\n", calls);
    return failures != 0;
}

// Numbers that no kernel has, arguments as they come.
static int unknown(void) {
    for (int i = 0; i < 5000; i++) {
        uint64_t number = any() | 1 << 10;
        must(syscall(number, any(), any(), any(), any(), any(), any()) == -1 && errno == ENOSYS, "an unknown call");
    }
    printf("unknown: through\n");
    return failures != 0;
}

static __attribute__((noreturn)) int loop(void) {
    printf("loop\n");
    fflush(stdout);
    for (volatile uint64_t i = 0;; i++) {
    }
}

// Memory without end, in the way that is asked for.
static int memory(const char *way) {
    size_t piece = 1 << 20;
    char *block = malloc(piece);
    memset(block, 'x', piece);
    if (!strcmp(way, "mmap")) {
        for (;;) {
            char *more = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (more == MAP_FAILED) break;
            memset(more, 'x', piece);
        }
    } else if (!strcmp(way, "file") || !strcmp(way, "memfd")) {
        int fd = way[0] == 'f' ? open("/tmp/big", O_CREAT | O_RDWR, 0600) : memfd_create("big", 0);
        while (write(fd, block, piece) == (ssize_t)piece) {
        }
    } else if (!strcmp(way, "pipes")) {
        int ends[2];
        while (pipe2(ends, O_NONBLOCK) == 0) {
            fcntl(ends[1], F_SETPIPE_SZ, 1 << 20);
            while (write(ends[1], block, piece) > 0) {
            }
        }
    } else if (!strcmp(way, "sockets")) {
        int ends[2];
        while (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends) == 0) {
            while (write(ends[1], block, 4000) > 0) {
            }
        }
    } else if (!strcmp(way, "areas")) {
        // Alternating rights, so that no two areas can become one.
        long count = 0;
        while (mmap(NULL, 4096, count & 1 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
               MAP_FAILED) {
            count++;
        }
    } else if (!strcmp(way, "names")) {
        char name[64];
        for (long i = 0;; i++) {
            snprintf(name, sizeof name, "/tmp/%ld", i);
            if (open(name, O_CREAT | O_WRONLY, 0600) < 0 && errno != EMFILE) break;
            close(3 + i % 900);
        }
    }
    printf("memory %s: refused with errno %d\n", way, errno);
    return 0;
}

static int descriptors(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = 4096;
    for (int round = 0; round < 2; round++) {
        int count = 0, last = -1;
        for (int kind = 0;; kind++) {
            int fd;
            switch (kind % 6) {
            case 0: fd = open("/dev/null", O_RDONLY); break;
            case 1: fd = eventfd(0, 0); break;
            case 2: fd = epoll_create1(0); break;
            case 3: fd = socket(AF_INET, SOCK_STREAM, 0); break;
            case 4: fd = memfd_create("x", 0); break;
            default: fd = dup(0); break;
            }
            if (fd < 0) break;
            last = fd, count++;
        }
        must(errno == EMFILE, "descriptors end with EMFILE");
        must(count > 1000, "a thousand descriptors");
        for (int fd = 3; fd <= last; fd++) close(fd);
        int again = open("/dev/null", O_RDONLY);
        must(again == 3, "descriptors are given back");
        close(again);
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    printf("descriptors: through\n");
    return failures != 0;
}

// Code that changes while it runs: written, called, written again; also through a second mapping, and by another thread.
typedef int (*function)(void);

static void write_function(unsigned char *at, int answer) {
    unsigned char code[] = {0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code + 1, &answer, 4);
    memcpy(at, code, sizeof code);
}

static unsigned char *shared_code;

static void *rewrite(void *unused) {
    for (int i = 0; i < 1000; i++) write_function(shared_code, 1000 + i);
    return unused;
}

static int code(void) {
    int all = PROT_READ | PROT_WRITE | PROT_EXEC;
    unsigned char *page = mmap(NULL, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 1000; i++) {
        write_function(page + i % 64, i);
        must(((function)(page + i % 64))() == i, "rewritten code runs as it is now");
    }
    int fd = memfd_create("code", 0);
    must(ftruncate(fd, 4096) == 0, "ftruncate");
    unsigned char *writer = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    unsigned char *runner = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    for (int i = 0; i < 100; i++) {
        write_function(writer, i);
        must(((function)runner)() == i, "code written through another mapping");
    }
    // A page that is taken away and comes back with other code.
    for (int i = 0; i < 100; i++) {
        mmap(page, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        write_function(page, i);
        must(((function)page)() == i, "a page mapped anew");
        mprotect(page, 4096, PROT_READ | PROT_EXEC);
        must(((function)page)() == i, "a page made read-only");
    }
    shared_code = mmap(NULL, 4096, all, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    write_function(shared_code, 1000);
    pthread_t thread;
    pthread_create(&thread, NULL, rewrite, NULL);
    for (int i = 0; i < 1000; i++) {
        int answer = ((function)shared_code)();
        must(answer >= 1000 && answer < 2000, "code that another thread rewrites");
    }
    pthread_join(thread, NULL);
    printf("code: through\n");
    return failures != 0;
}

static void *wait_for_ever(void *unused) {
    pause();
    return unused;
}

// Threads until there are no more, and the end of the process while all of them are there.
static int threads(void) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    int count = 0;
    pthread_t thread;
    while (pthread_create(&thread, &small, wait_for_ever, NULL) == 0) count++;
    must(count > 100, "a hundred threads");
    printf("threads: %d\n", count);
    fflush(stdout);
    return failures != 0;
}

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    printf("fault at %p\n", info->si_addr);
    fflush(stdout);
    _exit(info->si_addr == (void *)0x7f8000001000 ? 0 : 1);
}

// The supervisor window: what the program must not read.
static int supervisor(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    sigaction(SIGSEGV, &action, NULL);
    return *(volatile char *)0x7f8000001000;
}

static void *jump_to(uint64_t address) {
    ((function)address)();
    return NULL;
}

// What the kernel never lets a program do. The guest's processor must turn each into a signal or a system call.
static int privileged(const char *which) {
    switch (atoi(which)) {
    case 0: __asm__ volatile("hlt"); break;
    case 1: __asm__ volatile("mov %%cr3, %%rax" ::: "rax"); break;
    case 2: __asm__ volatile("out %%al, $0x10" ::: "memory"); break;
    case 3: __asm__ volatile("wrmsr" ::"c"(0xc0000082), "a"(0), "d"(0)); break;
    case 4: __asm__ volatile("int3"); break;
    case 5: __asm__ volatile("ud2"); break;
    case 6: __asm__ volatile("int $0x80" ::"a"(1)); break;
    case 7: jump_to(0x7f8000002000); break;
    case 8: __asm__ volatile("lgdt (%%rsp)" ::: "memory"); break;
    case 9: __asm__ volatile("vmcall" ::"a"(0) : "memory"); break;
    case 10: __asm__ volatile("vmmcall" ::"a"(0) : "memory"); break;
    case 11: __asm__ volatile("mov $0, %%rsp; push %%rax" ::: "memory"); break;
    case 12: __asm__ volatile("sti"); break;
    case 13: __asm__ volatile("xor %%ecx, %%ecx; div %%ecx" ::: "eax", "ecx", "edx"); break;
    case 14: __asm__ volatile("sysenter"); break;
    default: printf("no more\n"); return 77;
    }
    return 0;
}

static int cannot_open(const char *path) {
    for (int flags = 0; flags < 3; flags++) {
        int fd = open(path, flags);
        if (fd < 0) continue;
        printf("FAILED: %s can be opened with %d\n", path, flags);
        close(fd);
        failures++;
    }
    return 0;
}

// Reads a file if it can; whether it has the secret.
static int leaks(int directory, const char *path) {
    char bytes[256] = {0};
    int fd = openat(directory, path, O_RDONLY);
    if (fd < 0) return 0;
    ssize_t count = read(fd, bytes, sizeof bytes - 1);
    close(fd);
    return count > 0 && strstr(bytes, "the host's secret") != NULL;
}

static void sockets(const char *name, int port) {
    static const int families[] = {AF_NETLINK, AF_VSOCK, AF_PACKET, AF_ALG, AF_BLUETOOTH, AF_KEY, AF_XDP, AF_TIPC, AF_CAN};
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (int type = 1; type <= 5; type++)
            must(socket(families[i], type, 0) < 0, "a socket of a family that a guest must not have");
    must(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) < 0, "a raw socket");
    // The host's sockets: by path, by abstract name, over loopback.
    struct sockaddr_un path = {.sun_family = AF_UNIX}, abstract = {.sun_family = AF_UNIX};
    snprintf(path.sun_path, sizeof path.sun_path, "/work/socket");
    snprintf(abstract.sun_path + 1, sizeof abstract.sun_path - 1, "%s", name);
    for (int type = SOCK_STREAM; type <= SOCK_DGRAM; type++) {
        int fd = socket(AF_UNIX, type, 0);
        must(connect(fd, (void *)&path, sizeof path) < 0, "the host's socket by its path");
        must(connect(fd, (void *)&abstract, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name)) < 0,
             "the host's abstract socket");
    }
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(port)};
    static const char *const addresses[] = {"127.0.0.1", "127.0.0.2", "0.0.0.0", "169.254.169.254", "10.0.0.1"};
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        inet_pton(AF_INET, addresses[i], &host.sin_addr);
        must(connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&host, sizeof host) < 0, addresses[i]);
    }
}

// Everything that might lead out: processes, devices, sockets, links, mounts. /work is a folder of the host, bound writable,
// with a FIFO, a socket and links that the host made.
static int escape(const char *name, int port) {
    static const char *const closed[] = {
        "/proc/1/mem", "/proc/self/pagemap", "/proc/kcore", "/proc/kmsg", "/proc/sysrq-trigger", "/proc/kallsyms",
        "/dev/kvm", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/vda", "/dev/sda", "/dev/loop0", "/dev/fuse",
        "/dev/net/tun", "/dev/userfaultfd", "/dev/vsock", "/dev/vhost-vsock", "/dev/ptmx", "/dev/tty0",
        "/sys/kernel/debug", "/work/fifo", "/work/socket", "/work/device",
    };
    for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) cannot_open(closed[i]);
    char path[128];
    for (int pid = 2; pid < 5000; pid++) {
        snprintf(path, sizeof path, "/proc/%d/status", pid);
        must(access(path, F_OK) != 0, path);
    }
    must(kill(getppid() ? getppid() : 2, 0) < 0, "another process can be signalled");
    must(ptrace(PTRACE_ATTACH, 2, 0, 0) < 0, "ptrace");
    struct iovec here = {path, sizeof path}, there = {(void *)0x400000, sizeof path};
    must(process_vm_readv(2, &here, 1, &there, 1, 0) < 0, "process_vm_readv");
    must(process_vm_readv(getppid(), &here, 1, &there, 1, 0) < 0, "process_vm_readv of the parent");
    must(syscall(SYS_pidfd_open, 2, 0) < 0, "pidfd_open");
    must(syscall(SYS_bpf, 0, 0, 0) < 0 && syscall(SYS_userfaultfd, 0) < 0 && syscall(SYS_io_uring_setup, 1, path) < 0,
         "bpf, userfaultfd, io_uring");
    must(syscall(SYS_open_by_handle_at, AT_FDCWD, path, O_RDONLY) < 0, "open_by_handle_at");
    sockets(name, port);

    // Links and names. The host's secret lies beside /work's folder.
    int work = open("/work", O_RDONLY | O_DIRECTORY), root = open("/", O_PATH | O_DIRECTORY);
    must(work >= 0 && root >= 0, "/work can be opened");
    static const char *const ways[] = {
        "../secret", "../../secret", "link", "upwards", "absolute", "folder/../../secret", "inside/../../secret",
        "/proc/self/cwd/../secret", "/proc/self/root" "/../secret", "/proc/1/root" "/secret", "//../secret",
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        must(!leaks(work, ways[i]), ways[i]);
        must(!leaks(root, ways[i]), ways[i]);
        must(chdir("/work") == 0 && !leaks(AT_FDCWD, ways[i]), ways[i]);
    }
    for (int fd = 0; fd < 64; fd++) {
        static const char *const forms[] = {"/proc/self/fd/%d/../secret", "/proc/self/fd/%d/../../secret", "/dev/fd/%d/../secret"};
        for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
            snprintf(path, sizeof path, forms[i], fd);
            must(!leaks(AT_FDCWD, path), path);
        }
    }
    // Links that the guest makes mean something in its own tree only.
    must(symlink("/secret", "/work/made") == 0 && !leaks(work, "made"), "a link made inside");
    must(symlink("/proc/self/fd/0/../../secret", "/work/magic") == 0 && !leaks(work, "magic"), "a link through a descriptor");
    must(link("/work/upwards", "/work/hard") != 0 || !leaks(work, "hard"), "a hard link to a link");
    must(rename("/work/inside", "/work/moved") == 0 && !leaks(work, "moved/../../secret"), "a folder moved");
    // A directory that is moved while a descriptor of it is held, then left by "..".
    int held = open("/work/moved", O_RDONLY | O_DIRECTORY);
    must(rename("/work/moved", "/work/folder/deeper") == 0 && !leaks(held, "../../../secret"), "a folder moved while open");
    must(mknod("/work/disk", S_IFBLK | 0600, makedev(254, 0)) < 0, "a device can be made");
    must(mount("/", "/tmp", NULL, MS_BIND, NULL) < 0, "a bind mount");
    must(mount("proc", "/tmp", "proc", 0, NULL) < 0, "a mount of proc");
    must(syscall(SYS_open_tree, AT_FDCWD, "/", 1) < 0 && syscall(SYS_fsopen, "ext4", 0) < 0, "the new mount calls");
    must(chroot("/work") != 0 || !leaks(AT_FDCWD, "/../secret"), "chroot");
    must(syscall(SYS_pivot_root, "/work", "/work") < 0, "pivot_root");
    must(unshare(0x10000000) < 0 && unshare(0x00020000) < 0, "a namespace");
    must(setuid(0) != 0 || getuid() == 0, "setuid");
    printf("escape: through\n");
    return failures != 0;
}

// The program's own memory through /proc/self/mem: its own at most, and nothing that it has not.
static int own_memory(void) {
    int fd = open("/proc/self/mem", O_RDWR);
    if (fd >= 0) {
        char bytes[16];
        must(pread(fd, bytes, sizeof bytes, 0x7f8000002000) <= 0, "the supervisor window through /proc/self/mem");
        must(pread(fd, bytes, sizeof bytes, 0) <= 0, "page 0 through /proc/self/mem");
        must(pwrite(fd, bytes, sizeof bytes, (off_t)0xffff800000000000) <= 0, "kernel addresses through /proc/self/mem");
        static const char constant[] = "constant";
        must(pwrite(fd, "x", 1, (off_t)(uintptr_t)constant) <= 0 || constant[0] == 'x', "a write that says more than it did");
    }
    printf("own memory: through\n");
    return failures != 0;
}

int main(int count, char **arguments) {
    const char *what = count > 1 ? arguments[1] : "", *first = count > 2 ? arguments[2] : "";
    if (!strcmp(what, "wild")) return wild();
    if (!strcmp(what, "unknown")) return unknown();
    if (!strcmp(what, "loop")) return loop();
    if (!strcmp(what, "memory")) return memory(first);
    if (!strcmp(what, "descriptors")) return descriptors();
    if (!strcmp(what, "code")) return code();
    if (!strcmp(what, "threads")) return threads();
    if (!strcmp(what, "supervisor")) return supervisor();
    if (!strcmp(what, "privileged")) return privileged(first);
    if (!strcmp(what, "own-memory")) return own_memory();
    if (!strcmp(what, "escape") && count > 3) return escape(first, atoi(arguments[3]));
    fprintf(stderr, "hostile: nothing known as '%s'\n", what);
    return 2;
}
