//! The machine's memory slots in the form that process-kernel asks for.

use std::sync::Arc;

use machine::Vm;
use pages::PageCount;
use process_kernel::mm::MemorySlots;
use rustix::io::Errno;

/// Adapter: a virtual machine as [`MemorySlots`].
pub(crate) struct VmSlots(pub Arc<Vm>);

impl MemorySlots for VmSlots {
    fn cover(&self, pages: PageCount) -> Result<(), Errno> {
        self.0.cover(pages).map_err(|error| {
            tracing::warn!(%error, "a memory slot could not be added");
            Errno::NOMEM
        })
    }

    fn drop_shadow_pages(&self) -> Result<(), Errno> {
        self.0.drop_shadow_pages().map_err(|error| {
            tracing::warn!(%error, "shadow pages could not be dropped");
            Errno::IO
        })
    }
}
