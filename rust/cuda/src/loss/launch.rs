//! Launches, and the workspace that they share.

use super::variants::TOKENS;
use crate::device::{Device, Params, Variant};
use crate::tensor::{Tensor, Workspace};
use crate::unembed::{ALIGNMENT, Checked, Problem, check_contiguous};
use farspan_core::{Error, Result};

/// Bytes of workspace beyond which rows, or tokens, are taken in several goes.
pub(super) const BUDGET: usize = 64 << 20;

/// Places in a workspace, one behind the other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Room {
    /// How much is taken.
    pub bytes: usize,
}

impl Room {
    /// The offset of the next place, of so many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> u64 {
        let start = self.bytes;
        self.bytes += bytes.next_multiple_of(ALIGNMENT);
        start as u64
    }

    /// That a workspace has all of it.
    pub(super) fn check(&self, workspace: Workspace) -> Result<()> {
        workspace.check(self.bytes, ALIGNMENT)
    }
}

/// A problem over a whole vocabulary.
pub(super) fn checked(problem: &Problem) -> Result<Checked> {
    match problem.shard {
        None => Checked::new(problem),
        Some(_) => Err(Error::argument("shard", "the whole vocabulary", "a part of it")),
    }
}

/// How many tiles hold the tokens that exist.
pub(super) fn tiles(checked: &Checked) -> usize {
    checked.tokens.count.div_ceil(TOKENS)
}

/// How many rows at once a pass may take whose tiles leave records of `part` bytes, the most first: all of them, or
/// whole blocks.
pub(super) fn rows_at_once(checked: &Checked, part: usize, block: usize) -> impl Iterator<Item = usize> {
    let most = BUDGET / (tiles(checked).max(1) * part);
    let first = checked.rows.min(most.max(block) / block * block);
    std::iter::successors(Some(first), move |rows| (*rows > block).then(|| (rows / 2).next_multiple_of(block)))
}

/// The first of these sizes, which fall, for which so many bytes are enough; else the last.
pub(super) fn fitting(sizes: impl Iterator<Item = usize>, needed: impl Fn(usize) -> usize, bytes: usize) -> usize {
    let mut chosen = 0;
    for size in sizes {
        chosen = size;
        if needed(size) <= bytes {
            break;
        }
    }
    chosen
}

/// The address of numbers that lie without gaps, one for each token.
pub(super) fn table(argument: &'static str, table: Option<&Tensor<1>>) -> Result<u64> {
    let Some(table) = table else { return Ok(0) };
    check_contiguous(argument, table.shape[0], table.strides[0])?;
    Ok(table.pointer)
}

/// Starts so many blocks.
///
/// # Safety
/// As [`Device::launch`].
pub(super) unsafe fn launch(
    device: &dyn Device,
    variant: &Variant,
    blocks: usize,
    shared_bytes: usize,
    params: &impl Params,
) -> Result<()> {
    let blocks = u32::try_from(blocks).map_err(|_| Error::argument("hidden", "fewer rows at once", blocks))?;
    if blocks == 0 {
        return Ok(());
    }
    // SAFETY: the layouts are those of the kernels' structs; the addresses are the caller's.
    unsafe { device.launch(variant, [blocks, 1, 1], shared_bytes as u32, params.bytes()) }
}
