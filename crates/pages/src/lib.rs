//! Page and address arithmetic.
//!
//! Architecture invariant: this crate does no I/O, calls no libc and has no `unsafe`; every type here is plain data.
//! Guest-physical addresses, guest-virtual addresses, page numbers and page counts are different types so that they
//! can't be mixed by accident.
#![forbid(unsafe_code)]

mod address;
mod block;
mod page_set;
mod range;

pub use address::{GuestPhysical, GuestVirtual, PAGE_SHIFT, PAGE_SIZE, page_align_down, page_align_up};
pub use block::Block;
pub use page_set::{InvalidPageSet, PageSet};
pub use range::{PageCount, PageIndex, PageRange};
