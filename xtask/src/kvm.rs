//! Whether this machine can run virtual machines at all.

use std::fs::OpenOptions;
use std::path::Path;

/// Why `/dev/kvm` is of no use here; `None` when it can be opened.
pub(crate) fn obstacle() -> Option<String> {
    obstacle_of(Path::new("/dev/kvm"))
}

fn obstacle_of(device: &Path) -> Option<String> {
    let error = OpenOptions::new().read(true).write(true).open(device).err()?;
    let device = device.display();
    Some(match error.kind() {
        std::io::ErrorKind::NotFound => format!("there is no {device}"),
        std::io::ErrorKind::PermissionDenied => {
            format!("{device} may not be opened by this user (sudo usermod -aG kvm $USER, then log in again)")
        }
        _ => format!("{device} can't be opened: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_named() {
        assert_eq!(obstacle_of(Path::new("/dev/null")), None);
        assert_eq!(obstacle_of(Path::new("/dev/no-kvm")).unwrap(), "there is no /dev/no-kvm");
    }
}
