//! The guest's vDSO: clocks read without leaving guest code.
//!
//! Built by build.rs into a shared object that the personality maps into every program. It runs at CPL3 inside the guest, so
//! it uses nothing but the data page that lies right below it; the worker writes that page (src/vdso.rs, `Data`).
#![no_std]
#![no_main]

use core::arch::asm;
use core::arch::x86_64::{__rdtscp, _mm_lfence, _rdtsc};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What the worker writes; both sides have this layout, checked by a test.
#[repr(C)]
struct Data {
    /// Odd while the worker writes.
    sequence: AtomicU32,
    padding: AtomicU32,
    /// Time-stamp counter at the base.
    tsc: AtomicU64,
    /// CLOCK_MONOTONIC at the base, nanoseconds.
    monotonic: AtomicU64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, nanoseconds.
    realtime_offset: AtomicU64,
    /// Nanoseconds per tick, 32.32 fixed point; 0 means that the counter can't be used.
    multiplier: AtomicU64,
}

const CLOCK_REALTIME: i32 = 0;
const CLOCK_MONOTONIC: i32 = 1;
const CLOCK_MONOTONIC_RAW: i32 = 4;
const CLOCK_REALTIME_COARSE: i32 = 5;
const CLOCK_MONOTONIC_COARSE: i32 = 6;
const CLOCK_BOOTTIME: i32 = 7;
const SYS_GETTIMEOFDAY: u64 = 96;
const SYS_CLOCK_GETTIME: u64 = 228;
const SYS_CLOCK_GETRES: u64 = 229;
const NANOSECONDS: u64 = 1_000_000_000;

fn data() -> &'static Data {
    let image: *const u8;
    // SAFETY: the linker defines the symbol as the first byte of this image; the data page is mapped right below it.
    unsafe {
        asm!("lea {}, [rip + __ehdr_start]", out(reg) image, options(nomem, nostack, preserves_flags));
        &*image.sub(4096).cast()
    }
}

fn call(number: u64, first: u64, second: u64) -> i32 {
    let result: i64;
    // SAFETY: these system calls only write where their arguments point, which is the caller's affair.
    unsafe {
        asm!("syscall", inlateout("rax") number as i64 => result, in("rdi") first, in("rsi") second,
             out("rcx") _, out("r11") _, options(nostack));
    }
    result as i32
}

/// CLOCK_MONOTONIC and the offset to CLOCK_REALTIME; `None` when the worker has to be asked.
fn now() -> Option<(u64, u64)> {
    let data = data();
    for _ in 0..1000 {
        let sequence = data.sequence.load(Ordering::Acquire);
        if sequence & 1 == 0 {
            // SAFETY: both instructions exist on every x86-64 processor and touch no memory.
            let tsc = unsafe {
                _mm_lfence();
                _rdtsc()
            };
            let base = data.tsc.load(Ordering::Relaxed);
            let monotonic = data.monotonic.load(Ordering::Relaxed);
            let offset = data.realtime_offset.load(Ordering::Relaxed);
            let multiplier = data.multiplier.load(Ordering::Relaxed);
            core::sync::atomic::fence(Ordering::Acquire);
            if data.sequence.load(Ordering::Relaxed) == sequence {
                if multiplier == 0 {
                    return None;
                }
                let ticks = tsc.saturating_sub(base);
                let elapsed = ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64;
                return Some((monotonic.wrapping_add(elapsed), offset));
            }
        }
        core::hint::spin_loop();
    }
    None
}

/// clock_gettime(2)
///
/// # Safety
/// `to` must point to a `struct timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_gettime(clock: i32, to: *mut [i64; 2]) -> i32 {
    let known = matches!(
        clock,
        CLOCK_REALTIME
            | CLOCK_MONOTONIC
            | CLOCK_MONOTONIC_RAW
            | CLOCK_REALTIME_COARSE
            | CLOCK_MONOTONIC_COARSE
            | CLOCK_BOOTTIME
    );
    if known && let Some((monotonic, offset)) = now() {
        let wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
        let time = if wall { monotonic.wrapping_add(offset) } else { monotonic };
        // SAFETY: by the function's contract.
        unsafe { *to = [(time / NANOSECONDS) as i64, (time % NANOSECONDS) as i64] };
        return 0;
    }
    call(SYS_CLOCK_GETTIME, clock as u64, to as u64)
}

/// gettimeofday(2)
///
/// # Safety
/// `to` and `zone` must be null or point to their structures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_gettimeofday(to: *mut [i64; 2], zone: *mut [i32; 2]) -> i32 {
    let Some((monotonic, offset)) = now() else {
        return call(SYS_GETTIMEOFDAY, to as u64, zone as u64);
    };
    let time = monotonic.wrapping_add(offset);
    // SAFETY: by the function's contract.
    unsafe {
        if !to.is_null() {
            *to = [(time / NANOSECONDS) as i64, (time % NANOSECONDS / 1000) as i64];
        }
        if !zone.is_null() {
            *zone = [0, 0];
        }
    }
    0
}

/// time(2)
///
/// # Safety
/// `to` must be null or point to a `time_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_time(to: *mut i64) -> i64 {
    let mut time = [0, 0];
    // SAFETY: `time` is a live pair.
    unsafe { __vdso_clock_gettime(CLOCK_REALTIME, &raw mut time) };
    if !to.is_null() {
        // SAFETY: by the function's contract.
        unsafe { *to = time[0] };
    }
    time[0]
}

/// clock_getres(2)
///
/// # Safety
/// `to` must be null or point to a `struct timespec`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_getres(clock: i32, to: *mut [i64; 2]) -> i32 {
    call(SYS_CLOCK_GETRES, clock as u64, to as u64)
}

/// getcpu(2): Linux keeps the CPU's number where `rdtscp` reads it.
///
/// # Safety
/// `cpu` and `node` must be null or point to an `unsigned`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getcpu(cpu: *mut u32, node: *mut u32, _: *mut u8) -> i32 {
    let mut auxiliary = 0;
    // SAFETY: `auxiliary` is live; the pointers by the function's contract.
    unsafe {
        __rdtscp(&raw mut auxiliary);
        if !cpu.is_null() {
            *cpu = auxiliary & 0xfff;
        }
        if !node.is_null() {
            *node = 0;
        }
    }
    0
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
