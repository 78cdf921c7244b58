//! Draws that the host decides, of rows with settings and from shards: the device reads the vocabulary, the host waits
//! for the statistics, decides, and writes in its own memory.

use super::changes::{Changes, PackedChanges};
use super::problem::{Draws, Problem};
use super::statistics::{StatisticsLayout, StatisticsWants, statistics, statistics_workspace};
use crate::device::Device;
use crate::memory::Memory;
use crate::tensor::Tensor;
use farspan_core::Result;
use farspan_core::draw::{Gather, Plan, Read, Results, RowStatistics, Rows, SampleOut, Shards, decide, plans};
use farspan_core::sampler::Settings;
use farspan_core::unembed::HostDraws;

/// Bytes of every logit of some rows that are copied back at the same time.
const MOST_BYTES: usize = 64 << 20;
/// Rows that a thread decides before it asks for more: some tens of microseconds.
const ROWS_AT_ONCE: usize = 4;

/// Has the host's threads do something to each of several parts of a call's rows.
pub type Threads = for<'r> fn(Vec<Rows<'r>>, &(dyn Fn(Rows<'r>) + Sync)) -> Result<()>;

/// Where a call runs.
#[expect(missing_debug_implementations, reason = "a device has nothing to show")]
pub struct Place<'a, M> {
    /// The device that reads.
    pub device: &'a dyn Device,
    /// Its memory.
    pub memory: &'a M,
    /// The threads that decide.
    pub threads: Threads,
}

impl Changes {
    /// What these settings, which fit, do to single logits of `rows` rows.
    pub fn upload<M: Memory>(memory: &M, settings: Option<&Settings>, rows: usize) -> Result<Changes, M::Failure> {
        let Some(settings) = settings else { return Ok(Changes::default()) };
        let packed = PackedChanges::new(settings, rows);
        Ok(packed.at(memory.upload(packed.bytes())?))
    }
}

/// Reads rows on a device, for the host to decide.
#[expect(missing_debug_implementations, reason = "a device has nothing to show")]
pub struct Reader<'a, M> {
    place: Place<'a, M>,
    problem: &'a Problem,
    plans: &'a [Plan],
    draws: &'a Draws,
    changes: Changes,
    samples: usize,
}

impl<'a, M: Memory> Reader<'a, M> {
    /// `plans` say how the rows of the problem are drawn, `samples` times each; `draws` are the same draws on the
    /// device.
    ///
    /// # Safety
    /// Every address is valid on the device, with the extent and strides given, and those that the memory gives with
    /// the extent asked for, until everything that the reader launched has run.
    pub unsafe fn new(
        place: Place<'a, M>,
        problem: &'a Problem,
        plans: &'a [Plan],
        draws: &'a Draws,
        changes: Changes,
        samples: usize,
    ) -> Self {
        Reader { place, problem, plans, draws, changes, samples }
    }

    /// Has rows with these plans read: all of the call, or those that `whole` names with every logit. What the device
    /// left is copied back.
    fn run(&self, plans: &[Plan], whole: Option<&[usize]>) -> Result<(StatisticsLayout, M::Bytes), M::Failure> {
        let Place { device, memory, .. } = self.place;
        let wants = StatisticsWants::of(plans, self.samples, whole.is_some());
        let layout = StatisticsLayout::new(self.problem, plans.len(), wants)?;
        let bytes = statistics_workspace(self.problem, plans.len(), wants, &device.limits())?;
        let (workspace, out) = (memory.workspace(bytes)?, memory.allocate(layout.bytes())?);
        let rows = whole.map(|rows| {
            let numbers: Vec<u8> = rows.iter().flat_map(|&row| (row as i32).to_le_bytes()).collect();
            memory.upload(&numbers).map(|pointer| Tensor::contiguous(pointer, [rows.len()]))
        });
        let (rows, draws) = (rows.transpose()?, Some(self.draws));
        // SAFETY: who made the reader answers for the addresses.
        unsafe { statistics(device, self.problem, rows.as_ref(), draws, &self.changes, wants, out, workspace)? };
        let found = memory.download(out, layout.bytes())?;
        Ok((layout, found))
    }
}

impl<M: Memory> Read for Reader<'_, M> {
    type Failure = M::Failure;

    fn read(&mut self, whole: Option<&[usize]>) -> Result<Vec<RowStatistics>, M::Failure> {
        let plans = match whole {
            Some(rows) => rows.iter().map(|&row| self.plans[row]).collect(),
            None => self.plans.to_vec(),
        };
        let (layout, bytes) = self.run(&plans, whole)?;
        Ok(layout.read(&bytes, &plans)?)
    }

    fn most_bytes(&self) -> usize {
        MOST_BYTES
    }

    fn read_and_decide(&mut self, mut rows: Rows<'_>) -> Result<(), M::Failure> {
        let (layout, bytes) = self.run(self.plans, None)?;
        let (plans, bytes) = (self.plans, &*bytes);
        (self.place.threads)(rows.parts(ROWS_AT_ONCE), &|mut part| {
            for row in part.numbers() {
                part.decide(row, &layout.row(bytes, row, &plans[row]));
            }
        })?;
        Ok(())
    }
}

/// Draws as [`farspan_core::draw`] says and writes in the host's memory. `draws` stand on the host and, the same, on
/// the device. With `gather` the problem is a part of a vocabulary, and statistics are exchanged with the holders of
/// the others.
///
/// # Safety
/// As [`Reader::new`].
pub unsafe fn sample_on_host<M: Memory>(
    place: Place<'_, M>,
    problem: &Problem,
    draws: (&HostDraws, &Draws),
    settings: Option<&Settings>,
    gather: Option<&mut Gather<'_, M::Failure>>,
    out: SampleOut,
) -> Result<(), M::Failure> {
    let (tokens, rows) = (problem.check()?, problem.hidden.tensor.shape[0]);
    let plans = plans(&tokens, rows, Some(draws.0), settings)?;
    let (samples, top) = settings.map_or((1, 0), |settings| (settings.samples, settings.top));
    let mut results = Results::new(out, rows, samples, top)?;
    let changes = Changes::upload(place.memory, settings, rows)?;
    // SAFETY: the caller's.
    let mut reader = unsafe { Reader::new(place, problem, &plans, draws.1, changes, samples) };
    match gather {
        None => decide(&mut reader, &plans, &mut results, tokens.valid_vocab),
        Some(gather) => {
            let mut shards = Shards::new(reader, &plans, samples, tokens, gather);
            decide(&mut shards, &plans, &mut results, tokens.valid_vocab)
        }
    }
}
