//! Packets (virtio 1.2, 5.10.6): a head of 44 bytes, then data.

/// Length of a packet's head.
pub(super) const HEAD: usize = 44;
/// Connected, reliable, ordered.
pub(super) const STREAM: u16 = 1;

/// What a packet is for.
pub(super) mod operation {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RESET: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const DATA: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a shutdown: the sender will receive no more, or send no more.
pub(super) const NO_RECEIVE: u32 = 1;
pub(super) const NO_SEND: u32 = 2;

/// A packet's head.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    pub length: u32,
    pub kind: u16,
    pub operation: u16,
    pub flags: u32,
    /// Room that the sender has for what comes to it.
    pub buffer: u32,
    /// Bytes that the sender has taken out of there, counted without end.
    pub forwarded: u32,
}

impl Head {
    pub fn parse(bytes: [u8; HEAD]) -> Self {
        let long = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(bytes.get(at..at + 8).unwrap_or(&[0; 8]));
            u64::from_le_bytes(field)
        };
        let word = |at: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(bytes.get(at..at + 4).unwrap_or(&[0; 4]));
            u32::from_le_bytes(field)
        };
        Self {
            source_cid: long(0),
            destination_cid: long(8),
            source_port: word(16),
            destination_port: word(20),
            length: word(24),
            kind: word(28) as u16,
            operation: (word(28) >> 16) as u16,
            flags: word(32),
            buffer: word(36),
            forwarded: word(40),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD);
        bytes.extend_from_slice(&self.source_cid.to_le_bytes());
        bytes.extend_from_slice(&self.destination_cid.to_le_bytes());
        for word in [self.source_port, self.destination_port, self.length] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&self.kind.to_le_bytes());
        bytes.extend_from_slice(&self.operation.to_le_bytes());
        for word in [self.flags, self.buffer, self.forwarded] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_head_is_written_as_it_was_read(bytes in prop::array::uniform32(any::<u8>()), rest in prop::array::uniform12(any::<u8>())) {
            let mut all = [0; HEAD];
            all[..32].copy_from_slice(&bytes);
            all[32..].copy_from_slice(&rest);
            prop_assert_eq!(Head::parse(all).bytes(), all.to_vec());
        }
    }
}
