//! The kernels of fused attention, one table of safe functions per machine.

mod gradient;
mod pack;
mod product;
mod scores;
mod source;
mod statistics;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod tile;

pub(crate) use gradient::{Collected, KeyPanels, Known, PITCH, QueryTile, Slopes};
pub(crate) use pack::Turns;
pub(crate) use scores::{Chunk, KeyBias, Row, State};
pub use source::Input;
pub(crate) use source::{Rows, RowsMut, Spread};
pub(crate) use statistics::{Moments, Orders};
pub(crate) use stream::{Partial, Room, Streamed};
pub(crate) use table::{Kernels, kernels};
pub(crate) use tile::{Distance, PackedKeys, Scores, Tile};

use super::lanes::Lanes;
use farspan_core::attention::KEY_CHUNK as CHUNK;
pub(crate) use farspan_core::attention::MAX_HEAD_DIM as MAX_DIM;

/// Most rows of a tile on any machine.
pub(crate) const MAX_ROWS: usize = 12;

/// How many accumulators a machine's registers hold. Results do not depend on it.
pub(crate) trait Machine: Lanes {
    /// Rows of a full tile.
    const ROWS: usize;
    /// Whether a tile is two vectors wide.
    const WIDE: bool;
}

impl Machine for super::portable::Portable {
    const ROWS: usize = 4;
    const WIDE: bool = false;
}

#[cfg(target_arch = "x86_64")]
impl Machine for super::avx2::Avx2 {
    const ROWS: usize = 6;
    const WIDE: bool = false;
}

#[cfg(target_arch = "x86_64")]
impl Machine for super::avx512::Avx512 {
    const ROWS: usize = 12;
    const WIDE: bool = true;
}

/// The smallest number of rows that there is a kernel for and that holds `rows`.
pub(crate) fn height(rows: usize) -> usize {
    [1, 2, 4, 6, 12].into_iter().find(|&height| height >= rows).expect("a tile of at most 12 rows")
}
