//! Memory of a device as an operation asks for it: where the caller takes it from is the caller's.

use crate::tensor::Workspace;
use farspan_core::Error;
use std::ops::Deref;

/// Memory of a device for one call.
pub trait Memory {
    /// What asking for it can fail with.
    type Failure: From<Error>;
    /// Bytes that were copied from the device.
    type Bytes: Deref<Target = [u8]>;

    /// The address of so many bytes, at a multiple of 256, that live as long as the call.
    fn allocate(&self, bytes: usize) -> Result<u64, Self::Failure>;

    /// The address of a copy of these bytes, which lives as long as the call.
    fn upload(&self, bytes: &[u8]) -> Result<u64, Self::Failure>;

    /// What lies at an address that [`Memory::allocate`] gave, once everything before has run.
    fn download(&self, pointer: u64, bytes: usize) -> Result<Self::Bytes, Self::Failure>;

    /// [`Memory::allocate`] for a workspace.
    fn workspace(&self, bytes: usize) -> Result<Workspace, Self::Failure> {
        Ok(Workspace { pointer: self.allocate(bytes)?, bytes })
    }
}
