//! The ACPI tables: which processors and devices there are.
//!
//! The machine is "hardware-reduced" (ACPI 6.5, 4.1): no power management, no SMM, no legacy devices but those named. Virtio
//! devices are announced as `LNRO0005`, for kernels that are built without devices on the command line.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};

use crate::layout;

const OEM: [u8; 6] = *b"FSNAP ";
const TABLE: [u8; 8] = *b"FSNAPVM ";
const REVISION: u32 = 1;
/// FADT, boot architecture: no VGA, no real-time clock (ACPI 6.5, table 5.11).
const NO_VGA: u16 = 1 << 2;
const NO_CLOCK: u16 = 1 << 5;
/// Offset of the boot architecture flags in the FADT.
const BOOT_ARCHITECTURE: usize = 109;

/// The tables as bytes for guest-physical address `at`, the root pointer first.
pub(crate) fn tables(at: u64, processors: u8, virtio_devices: usize) -> Vec<u8> {
    let root_length = Rsdp::len().next_multiple_of(16);
    let mut bytes = vec![0; root_length];
    let mut place = |table: &[u8]| {
        let address = at + bytes.len() as u64;
        bytes.extend_from_slice(table);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        address
    };
    let dsdt = place(dsdt(virtio_devices).as_slice());
    let fadt = place(&fadt(dsdt));
    let madt = place(&madt(processors));
    let mut list = XSDT::new(OEM, TABLE, REVISION);
    list.add_entry(fadt);
    list.add_entry(madt);
    let list = place(&to_bytes(&list));
    let root = to_bytes(&Rsdp::new(OEM, list));
    for (to, from) in bytes.iter_mut().zip(root) {
        *to = from;
    }
    bytes
}

fn to_bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let builder = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    let mut bytes = to_bytes(&builder.finalize());
    let flags = (NO_VGA | NO_CLOCK).to_le_bytes();
    for (to, from) in bytes.iter_mut().skip(BOOT_ARCHITECTURE).zip(flags) {
        *to = from;
    }
    // The sum over a table is 0; its ninth byte makes it so.
    if let Some(sum) = bytes.get_mut(9) {
        *sum = 0;
    }
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    if let Some(checksum) = bytes.get_mut(9) {
        *checksum = sum;
    }
    bytes
}

fn madt(processors: u8) -> Vec<u8> {
    let address = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut table = MADT::new(OEM, TABLE, REVISION, address);
    table.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    for id in 0..processors {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    to_bytes(&table)
}

fn dsdt(virtio_devices: usize) -> Sdt {
    let mut code = Vec::new();
    for number in 0..virtio_devices {
        code.extend(virtio(number));
    }
    code.extend(serial());
    let mut table = Sdt::new(*b"DSDT", 36, 6, OEM, TABLE, REVISION);
    table.append_slice(&code);
    table
}

fn virtio(number: usize) -> Vec<u8> {
    let base = layout::VIRTIO as u32 + number as u32 * layout::VIRTIO_SIZE as u32;
    let line = layout::VIRTIO_INTERRUPT + number as u32;
    to_bytes(&aml::Device::new(
        format!("_SB_.V{number:03}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &(number as u32)),
            &aml::Name::new("_CCA".into(), &aml::One {}),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::Memory32Fixed::new(true, base, layout::VIRTIO_SIZE as u32),
                    &aml::Interrupt::new(true, true, false, false, line),
                ]),
            ),
        ],
    ))
}

fn serial() -> Vec<u8> {
    let port = layout::SERIAL_PORT;
    to_bytes(&aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &aml::Zero {}),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![
                    &aml::IO::new(port, port, 1, 8),
                    &aml::Interrupt::new(true, true, false, false, layout::SERIAL_INTERRUPT),
                ]),
            ),
        ],
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn table(all: &[u8], at: u64, address: u64) -> &[u8] {
        let table = &all[(address - at) as usize..];
        let length = u32::from_le_bytes(table[4..8].try_into().unwrap()) as usize;
        &table[..length]
    }

    #[test]
    fn every_table_is_found_from_the_root_and_its_sum_is_right() {
        let at = layout::ACPI;
        let all = tables(at, 2, 3);
        assert_eq!((&all[..8], sum(&all[..20]), sum(&all[..36])), (&b"RSD PTR "[..], 0, 0));
        let list = table(&all, at, u64::from_le_bytes(all[24..32].try_into().unwrap()));
        assert_eq!((&list[..4], sum(list)), (&b"XSDT"[..], 0));
        let entries: Vec<u64> =
            list[36..].chunks(8).map(|entry| u64::from_le_bytes(entry.try_into().unwrap())).collect();
        let [fadt, madt] = entries[..] else { panic!() };
        let fadt = table(&all, at, fadt);
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), NO_VGA | NO_CLOCK);
        let dsdt = table(&all, at, u64::from_le_bytes(fadt[140..148].try_into().unwrap()));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        assert_eq!(dsdt.windows(8).filter(|window| window == b"LNRO0005").count(), 3);
        let madt = table(&all, at, madt);
        assert_eq!((&madt[..4], sum(madt), madt.len()), (&b"APIC"[..], 0, 44 + 12 + 2 * 8));
    }
}
