//! The host's memory as what a draw reads.

use super::draw::Draw;
use super::pass::{self, Checked};
use super::row::Row;
use super::second;
use crate::matrix::Matrix;
use farspan_core::draw::{Read, RowStatistics, Rows};
use farspan_core::{Error, Result};

/// Bytes of sorted logits that are held at the same time.
const MOST_BYTES: usize = 8 << 20;

/// Reads the rows of a checked problem.
pub(super) struct Reader<'p, 'a> {
    pub problem: &'p Checked<'a>,
    pub hidden: &'p Matrix<'a>,
    pub rows: Vec<Row<'p>>,
    /// Draws of each row.
    pub samples: usize,
}

impl Read for Reader<'_, '_> {
    type Failure = Error;

    fn read(&mut self, whole: Option<&[usize]>) -> Result<Vec<RowStatistics>> {
        if let Some(rows) = whole {
            return second::whole(self.problem, self.hidden, &self.rows, rows);
        }
        let mut statistics = Vec::with_capacity(self.rows.len());
        let each = |_, row| statistics.push(row);
        pass::run(self.problem, &mut Draw { rows: &self.rows, samples: self.samples, each })?;
        Ok(statistics)
    }

    fn most_bytes(&self) -> usize {
        MOST_BYTES
    }

    /// Decides each row as soon as it has been read, so that the statistics of few rows are held at a time.
    fn read_and_decide(&mut self, mut rows: Rows<'_>) -> Result<()> {
        let each = |row, statistics| rows.decide(row, &statistics);
        pass::run(self.problem, &mut Draw { rows: &self.rows, samples: self.samples, each })
    }
}
