//! /proc/self/maps.

use crate::mm::{Access, Backing, Vma};
use crate::task::Process;

/// The column that a mapping's name starts at.
const NAME_COLUMN: usize = 73;

/// Characters of a name that would break the line are shown as octal, as Linux does.
fn escaped(name: &str) -> String {
    name.replace('\n', "\\012")
}

/// One line, as the kernel prints it.
fn line(area: &Vma) -> String {
    let bit = |access: Access, letter: char| if area.access.contains(access) { letter } else { '-' };
    let (offset, (device, inode), shared, name) = match &area.backing {
        Backing::Anonymous => (0, (0, 0), false, area.name.to_owned()),
        Backing::File { file, offset, shared } => (*offset, file.identity(), *shared, escaped(&file.path())),
    };
    let mut line = format!(
        "{:08x}-{:08x} {}{}{}{} {:08x} {:02x}:{:02x} {} ",
        area.start,
        area.end,
        bit(Access::READ, 'r'),
        bit(Access::WRITE, 'w'),
        bit(Access::EXECUTE, 'x'),
        if shared { 's' } else { 'p' },
        offset,
        libc::major(device),
        libc::minor(device),
        inode,
    );
    if !name.is_empty() {
        line = format!("{line:NAME_COLUMN$}{name}");
    }
    line.push('\n');
    line
}

/// All areas.
pub(super) fn maps(process: &Process) -> Vec<u8> {
    let mut areas = Vec::new();
    // Names are made outside the lock: they look into file systems.
    process.mm.for_each_area(|area| areas.push(area.clone()));
    areas.iter().map(line).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_as_linux_prints_them() {
        let area = Vma {
            start: 0x7ffd_0000_0000,
            end: 0x7ffd_0002_1000,
            access: Access::READ | Access::WRITE,
            backing: Backing::Anonymous,
            wipe_on_fork: false,
            name: "[stack]",
        };
        // From a Debian 12 machine, with the addresses above.
        let expected = "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n";
        assert_eq!(line(&area), expected);
        let nameless = Vma { name: "", start: 0x1000, end: 0x2000, access: Access::empty(), ..area };
        assert_eq!(line(&nameless), "00001000-00002000 ---p 00000000 00:00 0 \n");
    }
}
