//! Loading a kernel the way a boot loader does (Documentation/arch/x86/boot.rst, "64-bit boot protocol").

use std::io::Cursor;

use guest_memory::MemoryView;
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::loader::{BzImage, Elf, KernelLoader, KernelLoaderResult};
use machine::{SystemVcpu, kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use pages::PAGE_SIZE;
use vm_memory::{ByteValued, Bytes, GuestAddress};

use crate::error::LinuxGuestError;
use crate::{acpi, layout};

/// An ELF file's type (offset 16) that a vmlinux has.
const ET_EXEC: u16 = 2;

/// What boots: a bzImage or an ELF file, read whole.
#[derive(Clone, Debug)]
pub struct KernelImage(Vec<u8>);

impl KernelImage {
    /// Takes the bytes of a kernel's file.
    ///
    /// # Errors
    /// [`LinuxGuestError::Kernel`] when it is neither a bzImage that can start in 64-bit mode nor a 64-bit ELF file that is loaded where
    /// it says, as a vmlinux is and hardly any program.
    pub fn new(bytes: Vec<u8>) -> Result<Self, LinuxGuestError> {
        let image = Self(bytes);
        if image.is_elf() {
            return match image.0.get(4..6) {
                Some([2, 1]) if image.0.get(16..18) == Some(&ET_EXEC.to_le_bytes()) => Ok(image),
                Some([2, 1]) => Err(refused("it is an ELF file, but a program or a library and no vmlinux")),
                _ => Err(refused("it is an ELF file, but not a 64-bit one")),
            };
        }
        // The setup header's magic, version 2.12 or later, and XLF_KERNEL_64 (boot.rst, offsets 0x202, 0x206, 0x236).
        let field = |at: usize| image.0.get(at..at + 2).map(|field| u16::from_le_bytes([field[0], field[1]]));
        if image.0.get(0x202..0x206) != Some(b"HdrS") {
            return Err(refused("it is neither a bzImage nor an ELF file"));
        }
        if field(0x206).is_none_or(|version| version < 0x20c)
            || field(0x236).is_none_or(|flags| flags & 1 == 0)
        {
            return Err(refused("it is a bzImage that can't be started in 64-bit mode"));
        }
        Ok(image)
    }

    fn is_elf(&self) -> bool {
        self.0.starts_with(b"\x7fELF")
    }

    /// Loads it; says where it starts and what it says about itself.
    fn load(&self, memory: &MemoryView) -> Result<(u64, KernelLoaderResult), LinuxGuestError> {
        let mut file = Cursor::new(&self.0);
        let high = Some(GuestAddress(layout::HIGH_MEMORY));
        let loaded = if self.is_elf() {
            Elf::load(&**memory, None, &mut file, high)
        } else {
            BzImage::load(&**memory, None, &mut file, high)
        };
        let loaded = loaded.map_err(|error| refused(&error.to_string()))?;
        // A bzImage's 64-bit entry is 0x200 behind where its protected-mode part was loaded.
        let entry = loaded.kernel_load.0 + if self.is_elf() { 0 } else { 0x200 };
        Ok((entry, loaded))
    }
}

fn refused(reason: &str) -> LinuxGuestError {
    LinuxGuestError::Kernel { reason: reason.to_owned() }
}

/// Everything that is put into memory before the first instruction.
pub(crate) struct Boot<'a> {
    pub kernel: &'a KernelImage,
    pub initial_files: &'a [u8],
    pub command_line: &'a str,
    pub memory_bytes: u64,
    pub processors: u8,
    pub virtio_devices: usize,
}

impl Boot<'_> {
    /// Fills memory; gives the address of the first instruction.
    pub fn load(&self, memory: &MemoryView) -> Result<u64, LinuxGuestError> {
        let (entry, loaded) = self.kernel.load(memory)?;
        let header = loaded.setup_header.unwrap_or_default();
        let files_at = self.place_initial_files(memory, &header, loaded.kernel_end)?;
        self.write_command_line(memory)?;
        let tables = acpi::tables(layout::ACPI, self.processors, self.virtio_devices);
        write(memory, &tables, layout::ACPI)?;
        let parameters = self.parameters(header, files_at);
        write(memory, parameters.as_slice(), layout::ZERO_PAGE)?;
        write_page_tables(memory)?;
        write(memory, &DESCRIPTORS.map(u64::to_le_bytes).concat(), layout::DESCRIPTORS)?;
        Ok(entry)
    }

    /// At the end of memory below the hole, and below 2 GiB, which every kernel accepts.
    fn place_initial_files(
        &self,
        memory: &MemoryView,
        header: &setup_header,
        kernel_end: u64,
    ) -> Result<u64, LinuxGuestError> {
        // A bzImage unpacks itself to its preferred address and needs `init_size` from there.
        let unpacked = header.pref_address.saturating_add(u64::from(header.init_size));
        let needed_below = kernel_end.max(unpacked).next_multiple_of(PAGE_SIZE);
        let length = self.initial_files.len() as u64;
        let end = self.memory_bytes.min(layout::HOLE).min(1 << 31);
        let start = end.checked_sub(length).map(|start| start - start % PAGE_SIZE);
        match start.filter(|start| *start >= needed_below) {
            Some(start) => {
                write(memory, self.initial_files, start)?;
                Ok(start)
            }
            None => Err(LinuxGuestError::TooLittleMemory {
                memory_mib: self.memory_bytes >> 20,
                needed_mib: (needed_below + length).div_ceil(1 << 20),
            }),
        }
    }

    fn write_command_line(&self, memory: &MemoryView) -> Result<(), LinuxGuestError> {
        let line = self.command_line;
        if !line.is_ascii() || line.contains('\0') || line.len() >= layout::COMMAND_LINE_SIZE {
            return Err(LinuxGuestError::CommandLine { limit: layout::COMMAND_LINE_SIZE - 1 });
        }
        write(memory, &[line.as_bytes(), &[0]].concat(), layout::COMMAND_LINE)
    }

    fn parameters(&self, header: setup_header, files_at: u64) -> boot_params {
        let mut parameters = boot_params { hdr: header, ..Default::default() };
        let hdr = &mut parameters.hdr;
        // "Some other boot loader", and the magics for an ELF kernel, which brings no header.
        hdr.type_of_loader = 0xff;
        hdr.boot_flag = 0xaa55;
        hdr.header = 0x5372_6448;
        hdr.kernel_alignment = hdr.kernel_alignment.max(0x100_0000);
        hdr.cmd_line_ptr = layout::COMMAND_LINE as u32;
        hdr.cmdline_size = layout::COMMAND_LINE_SIZE as u32 - 1;
        hdr.ramdisk_image = files_at as u32;
        hdr.ramdisk_size = self.initial_files.len() as u32;
        parameters.acpi_rsdp_addr = layout::ACPI;
        let entries = memory_map(self.memory_bytes);
        parameters.e820_entries = entries.len() as u8;
        for (to, from) in parameters.e820_table.iter_mut().zip(entries) {
            *to = from;
        }
        parameters
    }
}

fn memory_map(bytes: u64) -> Vec<boot_e820_entry> {
    const RAM: u32 = 1;
    const RESERVED: u32 = 2;
    let entry = |addr: u64, end: u64, kind| boot_e820_entry { addr, size: end - addr, r#type: kind };
    let mut map = vec![
        entry(0, layout::LOW_MEMORY_END, RAM),
        entry(layout::LOW_MEMORY_END, layout::HIGH_MEMORY, RESERVED),
        entry(layout::HIGH_MEMORY, bytes.min(layout::HOLE), RAM),
    ];
    if bytes > layout::HOLE {
        map.push(entry(layout::ABOVE_HOLE, layout::ABOVE_HOLE + bytes - layout::HOLE, RAM));
    }
    map
}

fn write(memory: &MemoryView, bytes: &[u8], at: u64) -> Result<(), LinuxGuestError> {
    memory.write_slice(bytes, GuestAddress(at)).map_err(|error| refused(&error.to_string()))
}

/// The first GiB at its own addresses, in 2 MiB pages.
fn write_page_tables(memory: &MemoryView) -> Result<(), LinuxGuestError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let [root, second, third] = [0, 1, 2].map(|page| layout::PAGE_TABLES + page * PAGE_SIZE);
    write(memory, &(second | PRESENT_WRITABLE).to_le_bytes(), root)?;
    write(memory, &(third | PRESENT_WRITABLE).to_le_bytes(), second)?;
    let entries: Vec<u8> =
        (0..512_u64).flat_map(|index| (index << 21 | PRESENT_WRITABLE | LARGE).to_le_bytes()).collect();
    write(memory, &entries, third)
}

/// Selectors 0x10 and 0x18, as the boot protocol wants them.
const DESCRIPTORS: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

/// Sets the first processor to the kernel's first instruction. The others wait for its start-up interrupt.
pub(crate) fn start_at(processor: &SystemVcpu, entry: u64) -> Result<(), LinuxGuestError> {
    let regs = kvm_regs { rflags: 2, rip: entry, rsi: layout::ZERO_PAGE, rsp: 0x8ff0, ..Default::default() };
    Ok(processor.prepare(&regs, |sregs| {
        let segment = |selector, type_, long: bool| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            dpl: 0,
            db: u8::from(!long),
            s: 1,
            l: u8::from(long),
            g: 1,
            ..Default::default()
        };
        let data = segment(0x18, 3, false);
        *sregs = kvm_sregs {
            cs: segment(0x10, 11, true),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            gdt: kvm_dtable { base: layout::DESCRIPTORS, limit: 31, ..Default::default() },
            idt: kvm_dtable::default(),
            cr0: sregs.cr0 | 1 | 1 << 31,
            cr3: layout::PAGE_TABLES,
            cr4: sregs.cr4 | 1 << 5,
            efer: sregs.efer | 1 << 8 | 1 << 10,
            ..*sregs
        };
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernels_are_taken() {
        assert!(KernelImage::new(b"#!/bin/sh".to_vec()).unwrap_err().to_string().contains("neither"));
        assert!(KernelImage::new(b"\x7fELF\x01\x01".to_vec()).unwrap_err().to_string().contains("64-bit"));
        let mut elf = b"\x7fELF\x02\x01".to_vec();
        elf.resize(16, 0);
        // A shared object, as programs are.
        elf.extend([3, 0]);
        assert!(KernelImage::new(elf.clone()).unwrap_err().to_string().contains("no vmlinux"));
        elf[16] = 2;
        assert!(KernelImage::new(elf).is_ok());
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        assert!(KernelImage::new(image.clone()).is_err());
        image[0x236] = 1;
        assert!(KernelImage::new(image).is_ok());
    }

    #[test]
    fn the_memory_map_covers_all_memory_once() {
        let total = |bytes| {
            let map = memory_map(bytes);
            assert!(map.windows(2).all(|pair| { pair[0].addr + pair[0].size <= pair[1].addr }));
            map.iter().map(|entry| entry.size).sum::<u64>()
        };
        assert_eq!(total(256 << 20), 256 << 20);
        assert_eq!(total(5 << 30), 5 << 30);
    }
}
