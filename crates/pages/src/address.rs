//! Byte addresses inside a guest.

use std::fmt;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page; the only page size that guest memory is managed in.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// Rounds `bytes` down to a page boundary.
pub const fn page_align_down(bytes: u64) -> u64 {
    bytes & !(PAGE_SIZE - 1)
}

/// Rounds `bytes` up to a page boundary; `None` when that overflows.
pub const fn page_align_up(bytes: u64) -> Option<u64> {
    match bytes.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(page_align_down(sum)),
        None => None,
    }
}

macro_rules! address {
    ($(#[$doc:meta])* $name:ident, $tag:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further on; `None` on overflow.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Offset inside the page, in bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The first byte of the page that holds this address.
            pub const fn page_base(self) -> Self {
                Self(page_align_down(self.0))
            }

            /// Whether the address is a multiple of the page size.
            pub const fn is_page_aligned(self) -> bool {
                self.page_offset() == 0
            }
        }

        impl Add<u64> for $name {
            type Output = Self;
            /// Wraps on overflow, as the hardware's own address arithmetic does.
            fn add(self, bytes: u64) -> Self {
                Self(self.0.wrapping_add(bytes))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($tag, ":{:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A guest-physical byte address: an offset into the guest's memory slots.
    GuestPhysical,
    "gpa"
);
address!(
    /// A guest-virtual byte address: what the guest's program calls a pointer.
    GuestVirtual,
    "gva"
);
