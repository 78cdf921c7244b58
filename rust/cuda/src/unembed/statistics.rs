//! What a reading of the vocabulary says of rows whose draws are decided on the host: rows with cuts, and shards of a
//! vocabulary. The device writes it into one piece of memory, the caller copies that back, and
//! [`farspan_core::draw`] does the rest.

use super::changes::Changes;
use super::launch::{Call, ListAt};
use super::params::{MOMENTS, MergeParams, SEGMENT, UnembedParams, size};
use super::plan::{Plan, Wants, tiles};
use super::problem::{Checked, Draws, Problem, draws_at};
use super::variants::TOKENS;
use crate::device::{Device, Limits};
use crate::tensor::{Tensor, Workspace};
use farspan_core::draw::{Plan as DrawPlan, RowStatistics};
use farspan_core::merge::{Best, Mass, Ranked, Spread};
use farspan_core::{Error, Result};

/// What is asked of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatisticsWants {
    /// Draws of each row that nothing is cut from; 0 where no row is of that kind.
    pub samples: usize,
    /// How many of the largest logits; `None`: every logit.
    pub listed: Option<usize>,
    /// The spread of the logits.
    pub spreads: bool,
}

impl StatisticsWants {
    /// What these plans need, of a call of `samples` draws a row. With `whole`, every logit.
    pub fn of(plans: &[DrawPlan], samples: usize, whole: bool) -> StatisticsWants {
        StatisticsWants {
            samples: if !whole && plans.iter().any(|plan| plan.free().is_some()) { samples } else { 0 },
            listed: (!whole).then(|| plans.iter().map(|plan| plan.listed).max().unwrap_or(0)),
            spreads: !whole && plans.iter().any(DrawPlan::spreads),
        }
    }

    fn wants(&self, count: usize) -> Wants {
        let list = self.listed.map_or(0, |listed| listed.min(count));
        Wants { samples: self.samples, list, ..Wants::default() }
    }
}

/// The memory in which the device leaves the statistics of some rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatisticsLayout {
    wants: StatisticsWants,
    rows: usize,
    tiles: usize,
    segments: usize,
    /// Entries of a row.
    entries: usize,
    masses: usize,
    best: usize,
    total: usize,
    spreads: usize,
    list: usize,
    bytes: usize,
}

impl StatisticsLayout {
    /// For `rows` rows of a problem.
    pub fn new(problem: &Problem, rows: usize, wants: StatisticsWants) -> Result<StatisticsLayout> {
        Ok(Self::of(&Checked::new(problem)?, rows, wants))
    }

    fn of(checked: &Checked, rows: usize, wants: StatisticsWants) -> StatisticsLayout {
        let tiles = tiles(&checked.tokens.range());
        let segments = tiles.div_ceil(SEGMENT);
        let entries = wants.listed.map_or(tiles * TOKENS, |listed| listed.min(checked.tokens.count));
        let mut bytes = 0;
        let mut room = |each: usize| {
            let start = bytes;
            bytes += (rows * each).next_multiple_of(16);
            start
        };
        StatisticsLayout {
            wants,
            rows,
            tiles,
            segments,
            entries,
            masses: room(segments * size::MASS),
            best: room(wants.samples * size::BEST),
            total: room(size::TOTAL),
            spreads: room(if wants.spreads { tiles * size::SPREAD } else { 0 }),
            list: room(entries * size::ENTRY),
            bytes,
        }
    }

    /// How much memory it is, at a multiple of 16.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the device left, copied back. `plans` are those of its rows.
    pub fn read(&self, memory: &[u8], plans: &[DrawPlan]) -> Result<Vec<RowStatistics>> {
        if memory.len() < self.bytes || plans.len() != self.rows {
            let expected = format!("{} bytes of {} rows", self.bytes, self.rows);
            return Err(Error::argument("memory", expected, format!("{} of {}", memory.len(), plans.len())));
        }
        Ok(plans.iter().enumerate().map(|(row, plan)| self.row(memory, row, plan)).collect())
    }

    /// What the device left of one row.
    ///
    /// # Panics
    /// When the memory is less than [`StatisticsLayout::bytes`], or there is no such row.
    pub fn row(&self, memory: &[u8], row: usize, plan: &DrawPlan) -> RowStatistics {
        let records = |start: usize, each: usize, bytes: usize| {
            memory[start + row * each * bytes..][..each * bytes].chunks_exact(bytes)
        };
        let samples = if plan.free().is_some() { self.wants.samples } else { 0 };
        let spreads = if plan.spreads() && self.wants.spreads { self.tiles } else { 0 };
        let listed = if self.wants.listed.is_some() { plan.listed } else { usize::MAX };
        let mut list: Vec<Ranked> = records(self.list, self.entries, size::ENTRY).filter_map(entry).collect();
        if self.wants.listed.is_none() {
            list.retain(|entry| entry.logit() > f32::NEG_INFINITY);
            list.sort_unstable_by(|a, b| b.cmp(a));
        }
        list.truncate(listed);
        let total = &memory[self.total + row * size::TOTAL..][..size::TOTAL];
        RowStatistics {
            masses: records(self.masses, self.segments, size::MASS).map(mass).collect(),
            best: records(self.best, self.wants.samples, size::BEST).take(samples).map(best).collect(),
            list,
            size: word(total, 5).into(),
            spreads: records(self.spreads, spreads, size::SPREAD).map(spread).collect(),
        }
    }
}

fn word(record: &[u8], index: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&record[4 * index..][..4]);
    u32::from_le_bytes(bytes)
}

fn number(record: &[u8], index: usize) -> f32 {
    f32::from_bits(word(record, index))
}

fn mass(record: &[u8]) -> Mass {
    let [max, sum, tempered, moment, tempered_moment] = std::array::from_fn(|i| number(record, i));
    Mass { max, sum, tempered, moment, tempered_moment }
}

fn best(record: &[u8]) -> Best {
    let [score, rest, logit] = std::array::from_fn(|i| number(record, i));
    let token = word(record, 3);
    Best { score, rest, logit, token: (token as i32 >= 0).then_some(token) }
}

fn spread(record: &[u8]) -> Spread {
    Spread { count: word(record, 0), mean: number(record, 1).into(), squares: number(record, 2).into() }
}

/// 0 is no entry.
fn entry(record: &[u8]) -> Option<Ranked> {
    let (token, ordered) = (!word(record, 0), word(record, 1));
    let logit = f32::from_bits(if ordered >> 31 == 0 { !ordered } else { ordered & 0x7fff_ffff });
    (ordered != 0).then(|| Ranked::new(logit, token))
}

/// Bytes of workspace that [`statistics`] needs for `rows` rows.
pub fn statistics_workspace(problem: &Problem, rows: usize, wants: StatisticsWants, limits: &Limits) -> Result<usize> {
    let checked = Checked::new(problem)?;
    let wants = wants.wants(checked.tokens.count);
    Ok(Plan::new(checked.dtype, rows, &checked.tokens.range(), wants, limits).layout.bytes)
}

/// Reads the vocabulary for all rows of hidden, or for those that `rows` names (int32, in device memory), and leaves
/// their statistics at `out`, laid out as [`StatisticsLayout`] says for that many rows. Draws and changes are those of
/// all rows of hidden.
///
/// # Safety
/// Every address is valid on the device, with the extent and strides given, until the launches have run.
#[expect(clippy::too_many_arguments, reason = "a draw, which rows of it, and where it goes")]
pub unsafe fn statistics(
    device: &dyn Device,
    problem: &Problem,
    rows: Option<&Tensor<1>>,
    draws: Option<&Draws>,
    changes: &Changes,
    wants: StatisticsWants,
    out: u64,
    workspace: Workspace,
) -> Result<()> {
    let checked = Checked::new(problem)?;
    if let Some(draws) = draws {
        draws.check_rows(checked.rows)?;
    }
    let count = rows.map_or(checked.rows, |rows| rows.shape[0]);
    let layout = StatisticsLayout::of(&checked, count, wants);
    let mut call = Call::new(device, &checked, count, wants.wants(checked.tokens.count), workspace)?;
    call.params.row_map = rows.map_or(0, |rows| rows.pointer);
    let draws = draws.map(draws_at).unwrap_or_default();
    let place = |offset: usize| out + offset as u64;
    for group in call.groups() {
        let mut params = group.params(draws, changes.at);
        let spreads = if wants.spreads { group.own(place(layout.spreads), layout.tiles * size::SPREAD) } else { 0 };
        params = UnembedParams { bests: group.bests(), spreads, flags: params.flags | MOMENTS, ..params };
        params = match wants.listed {
            // Every tile's whole list.
            None => {
                let lists = group.own(place(layout.list), layout.entries * size::ENTRY);
                UnembedParams { lists, listed: TOKENS as i32, ..params }
            }
            Some(_) if layout.entries > 0 => group.listing(params),
            Some(_) => params,
        };
        group.pass(&params)?;
        let total = group.own(place(layout.total), size::TOTAL);
        group.merge(MergeParams {
            bests: group.bests(),
            temperature: draws.temperature,
            total,
            masses: group.own(place(layout.masses), layout.segments * size::MASS),
            best: group.own(place(layout.best), wants.samples * size::BEST),
            samples: wants.samples as i32,
            ..MergeParams::default()
        })?;
        if wants.listed.is_some() {
            let entries = place(layout.list);
            group.list(&params, layout.entries, &ListAt { entries, total, ..ListAt::default() })?;
        }
    }
    Ok(())
}
