//! Loading ELF programs (System V ABI; Linux's fs/binfmt_elf.c for the rules that programs rely on).

use std::sync::Arc;

use goblin::elf::header::{EM_X86_64, ET_DYN, ET_EXEC, Header};
use goblin::elf::program_header::{PF_R, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_PHDR, ProgramHeader};
use pages::{PAGE_SIZE, page_align_down, page_align_up};
use rustix::io::Errno;

use crate::file::{Destination, Mappable, OpenFile};
use crate::mm::{Access, Backing, MapRequest, Mm, Placement, layout};

/// More program headers than any real program has.
const MAX_PROGRAM_HEADERS: u16 = 1024;
const HEADER_SIZE: usize = 64;
const PROGRAM_HEADER_SIZE: u64 = 56;

/// A program file's headers, checked.
pub(super) struct ProgramFile {
    file: Arc<dyn Mappable>,
    header: Header,
    segments: Vec<ProgramHeader>,
    /// Path of the program interpreter, if it wants one.
    pub interpreter: Option<Vec<u8>>,
}

/// Where a program was put.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    /// Entry point.
    pub entry: u64,
    /// Difference between addresses in memory and in the file.
    pub bias: u64,
    /// The program headers in memory.
    pub headers: u64,
    /// How many there are.
    pub header_count: u64,
    /// One past the last byte of the highest segment.
    pub end: u64,
}

/// Reads exactly `length` bytes at `offset`.
pub(super) fn read_exact(file: &OpenFile, offset: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    let mut done = 0;
    while done < length {
        let count =
            file.object.read(Some(offset + done as u64), &mut Destination::Own(&mut bytes[done..]))?;
        if count == 0 {
            return Err(Errno::NOEXEC);
        }
        done += count;
    }
    Ok(bytes)
}

impl ProgramFile {
    /// Reads and checks the headers of an open file.
    ///
    /// # Errors
    /// ENOEXEC when it is no x86-64 ELF program, EACCES when it can't be mapped.
    pub fn open(file: &Arc<OpenFile>) -> Result<Self, Errno> {
        let mappable = file.object.clone().mappable().ok_or(Errno::ACCESS)?;
        let first = read_exact(file, 0, HEADER_SIZE)?;
        let mut raw = [0; HEADER_SIZE];
        raw.copy_from_slice(&first);
        if &raw[..4] != b"\x7fELF" || raw[4] != 2 || raw[5] != 1 {
            return Err(Errno::NOEXEC);
        }
        let header: Header = (*goblin::elf64::header::Header::from_bytes(&raw)).into();
        let kind_fits = header.e_type == ET_EXEC || header.e_type == ET_DYN;
        if !kind_fits || header.e_machine != EM_X86_64 {
            return Err(Errno::NOEXEC);
        }
        if u64::from(header.e_phentsize) != PROGRAM_HEADER_SIZE
            || header.e_phnum == 0
            || header.e_phnum > MAX_PROGRAM_HEADERS
        {
            return Err(Errno::NOEXEC);
        }
        let bytes =
            read_exact(file, header.e_phoff, usize::from(header.e_phnum) * PROGRAM_HEADER_SIZE as usize)?;
        let context =
            goblin::container::Ctx::new(goblin::container::Container::Big, goblin::container::Endian::Little);
        let segments = ProgramHeader::parse(&bytes, 0, usize::from(header.e_phnum), context)
            .map_err(|_| Errno::NOEXEC)?;
        let mut interpreter = None;
        if let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_INTERP) {
            if segment.p_filesz < 2 || segment.p_filesz > 4096 {
                return Err(Errno::NOEXEC);
            }
            let mut path = read_exact(file, segment.p_offset, segment.p_filesz as usize)?;
            if path.pop() != Some(0) {
                return Err(Errno::NOEXEC);
            }
            interpreter = Some(path);
        }
        Ok(Self { file: mappable, header, segments, interpreter })
    }

    fn loads(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments.iter().filter(|segment| segment.p_type == PT_LOAD)
    }

    /// Maps the program. Position-independent ones go to `base` or, if that is taken, elsewhere.
    ///
    /// # Errors
    /// ENOEXEC for segments that make no sense, ENOMEM, EFAULT.
    pub fn load(&self, mm: &Mm, base: u64) -> Result<Loaded, Errno> {
        let low = self.loads().map(|segment| page_align_down(segment.p_vaddr)).min().ok_or(Errno::NOEXEC)?;
        let mut high = 0;
        for segment in self.loads() {
            let end = segment.p_vaddr.checked_add(segment.p_memsz).and_then(page_align_up);
            high = high.max(end.filter(|end| *end <= layout::USER_END).ok_or(Errno::NOEXEC)?);
            let congruent = segment.p_vaddr % PAGE_SIZE == segment.p_offset % PAGE_SIZE;
            if segment.p_filesz > segment.p_memsz || !congruent {
                return Err(Errno::NOEXEC);
            }
        }
        let fixed = self.header.e_type == ET_EXEC;
        // The whole span is reserved first, so that no segment lands on something else.
        let span = MapRequest {
            placement: if fixed { Placement::FixedIfFree(low) } else { Placement::Hint(base) },
            length: high - low,
            access: Access::empty(),
            backing: Backing::Anonymous,
            name: "",
        };
        let start = mm.map(span).map_err(|errno| if errno == Errno::EXIST { Errno::NOMEM } else { errno })?;
        let bias = start.wrapping_sub(low);
        for segment in self.loads() {
            self.load_segment(mm, segment, bias)?;
        }
        // Holes between segments are not the program's.
        let mut covered = start;
        let mut spans: Vec<(u64, u64)> = self
            .loads()
            .map(|segment| {
                let first = page_align_down(segment.p_vaddr.wrapping_add(bias));
                let last = segment.p_vaddr.wrapping_add(bias).wrapping_add(segment.p_memsz);
                (first, page_align_up(last).unwrap_or(last))
            })
            .collect();
        spans.sort_unstable();
        for (first, last) in spans {
            if first > covered {
                mm.unmap(covered, first - covered)?;
            }
            covered = covered.max(last);
        }
        Ok(Loaded {
            entry: self.header.e_entry.wrapping_add(bias),
            bias,
            headers: self.headers_address().wrapping_add(bias),
            header_count: u64::from(self.header.e_phnum),
            end: high.wrapping_add(bias),
        })
    }

    /// Where the program headers are in memory, as the file counts.
    fn headers_address(&self) -> u64 {
        if let Some(segment) = self.segments.iter().find(|segment| segment.p_type == PT_PHDR) {
            return segment.p_vaddr;
        }
        let offset = self.header.e_phoff;
        self.loads()
            .find(|segment| offset >= segment.p_offset && offset - segment.p_offset < segment.p_filesz)
            .map_or(0, |segment| segment.p_vaddr.wrapping_add(offset - segment.p_offset))
    }

    fn load_segment(&self, mm: &Mm, segment: &ProgramHeader, bias: u64) -> Result<(), Errno> {
        let mut access = Access::empty();
        for (flag, bit) in [(PF_R, Access::READ), (PF_W, Access::WRITE), (PF_X, Access::EXECUTE)] {
            access.set(bit, segment.p_flags & flag != 0);
        }
        let start = segment.p_vaddr.wrapping_add(bias);
        let file_end = start.wrapping_add(segment.p_filesz);
        let memory_end = page_align_up(start.wrapping_add(segment.p_memsz)).ok_or(Errno::NOEXEC)?;
        let first = page_align_down(start);
        let mut zero_from = first;
        if segment.p_filesz > 0 {
            let mapped_end = page_align_up(file_end).ok_or(Errno::NOEXEC)?;
            mm.map(MapRequest {
                placement: Placement::Fixed(first),
                length: mapped_end - first,
                access,
                backing: Backing::File {
                    file: self.file.clone(),
                    offset: page_align_down(segment.p_offset),
                    shared: false,
                },
                name: "",
            })?;
            // What the file holds behind the segment is not part of it; only writable segments are cleared, as Linux does.
            if segment.p_memsz > segment.p_filesz && file_end < mapped_end && access.contains(Access::WRITE) {
                mm.write(file_end, &vec![0; (mapped_end - file_end) as usize])?;
            }
            zero_from = mapped_end;
        }
        if memory_end > zero_from {
            mm.map(MapRequest {
                placement: Placement::Fixed(zero_from),
                length: memory_end - zero_from,
                access,
                backing: Backing::Anonymous,
                name: "",
            })?;
        }
        Ok(())
    }
}
