//! Descriptors beside a message: the message holds positions, the socket carries the descriptors themselves.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

/// Stands in a message for one of the descriptors that come with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Descriptor(u8);

/// A message names a descriptor that isn't there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescriptorError {
    /// Fewer came with the message.
    #[error("the message names descriptor {index}, but {count} came with it")]
    Missing {
        /// The position that the message names.
        index: u8,
        /// How many came.
        count: usize,
    },
    /// The message names it twice.
    #[error("the message names descriptor {0} twice")]
    TakenTwice(u8),
}

/// Collects the descriptors that go with a message while the message is put together.
#[derive(Debug, Default)]
pub struct Attached(Vec<OwnedFd>);

impl Attached {
    /// Adds a descriptor and gives its stand-in. Descriptors beyond [`MAX_DESCRIPTORS`](crate::MAX_DESCRIPTORS) make the
    /// sending fail.
    pub fn attach(&mut self, descriptor: impl Into<OwnedFd>) -> Descriptor {
        let index = u8::try_from(self.0.len()).unwrap_or(u8::MAX);
        self.0.push(descriptor.into());
        Descriptor(index)
    }

    pub(crate) fn into_inner(self) -> Vec<OwnedFd> {
        self.0
    }
}

/// The descriptors that came with a message. Those that nobody takes are closed with it.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<Option<OwnedFd>>);

impl Descriptors {
    pub(crate) fn new(descriptors: impl IntoIterator<Item = OwnedFd>) -> Self {
        Self(descriptors.into_iter().map(Some).collect())
    }

    /// How many came.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none came.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the descriptor that `stand_in` stands for.
    ///
    /// # Errors
    /// [`DescriptorError`]: the other side's message is wrong.
    pub fn take(&mut self, stand_in: Descriptor) -> Result<OwnedFd, DescriptorError> {
        let count = self.0.len();
        let place = self
            .0
            .get_mut(usize::from(stand_in.0))
            .ok_or(DescriptorError::Missing { index: stand_in.0, count })?;
        place.take().ok_or(DescriptorError::TakenTwice(stand_in.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_descriptor_is_given_once() {
        let mut attached = Attached::default();
        let stand_in = attached.attach(tempfile::tempfile().unwrap());
        let mut descriptors = Descriptors::new(attached.into_inner());
        assert!(descriptors.take(stand_in).is_ok());
        assert_eq!(descriptors.take(stand_in).unwrap_err(), DescriptorError::TakenTwice(0));
        assert_eq!(
            descriptors.take(Descriptor(1)).unwrap_err(),
            DescriptorError::Missing { index: 1, count: 1 }
        );
    }
}
