/* What small things cost: run natively and in a guest, the same program tells both figures.
 *
 * Each measure repeats its thing for a while, several times over, and prints the least time of one repeat: what disturbs
 * a measurement only ever adds to it. Output: one line "name nanoseconds" for each measure.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 7, PAGE = 4096 };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Runs `once` `count` times in each round and prints the best round's time for one. */
static void measure(const char *name, long count, void (*once)(void)) {
    double best = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        for (long at = 0; at < count; at++)
            once();
        double each = (now() - start) / count;
        if (each < best)
            best = each;
    }
    printf("%s %.1f\n", name, best);
    fflush(stdout);
}

static void system_call(void) {
    syscall(SYS_getppid);
}

static void read_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
}

/* A mapping large enough that nothing is left from the round before; its cost is shared by its pages. */
enum { TOUCHED = 256 };

static void touch_pages(void) {
    char *memory = mmap(NULL, TOUCHED * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    for (int page = 0; page < TOUCHED; page++)
        memory[page * PAGE] = 1;
    if (munmap(memory, TOUCHED * PAGE) != 0)
        fail("munmap");
}

static void measure_first_touch(void) {
    double best = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        double start = now();
        touch_pages();
        double each = (now() - start) / TOUCHED;
        if (each < best)
            best = each;
    }
    printf("first-touch-page %.1f\n", best);
}

static void *nothing(void *argument) {
    return argument;
}

static void create_thread(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        fail("pthread_create");
}

static atomic_int turn;
static atomic_int stop;

static void futex(int operation, int value) {
    syscall(SYS_futex, &turn, operation, value, NULL, NULL, 0);
}

/* Two threads that wake each other: one round trip is two wakes. */
static void *answer(void *argument) {
    for (;;) {
        while (atomic_load(&turn) != 1)
            futex(FUTEX_WAIT_PRIVATE, 0);
        if (atomic_load(&stop))
            return argument;
        atomic_store(&turn, 0);
        futex(FUTEX_WAKE_PRIVATE, 1);
    }
}

static void ask(void) {
    atomic_store(&turn, 1);
    futex(FUTEX_WAKE_PRIVATE, 1);
    while (atomic_load(&turn) != 0)
        futex(FUTEX_WAIT_PRIVATE, 1);
}

static void measure_futex(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, answer, NULL) != 0)
        fail("pthread_create");
    measure("futex-round-trip", 300, ask);
    atomic_store(&stop, 1);
    atomic_store(&turn, 1);
    futex(FUTEX_WAKE_PRIVATE, 1);
    pthread_join(thread, NULL);
}

static int ends[2];

static void through_pipe(void) {
    char byte = 1;
    if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1)
        fail("pipe");
}

int main(void) {
    measure("system-call", 2000, system_call);
    measure("clock-gettime", 20000, read_clock);
    measure_first_touch();
    measure("thread-create-join", 100, create_thread);
    measure_futex();
    if (pipe(ends) != 0)
        fail("pipe");
    measure("pipe-write-read", 1000, through_pipe);
    return 0;
}
