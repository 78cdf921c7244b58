//! The launches that a call is made of, over one group of rows that shares the workspace.

use super::params::{
    ChangesAt, DrawsAt, FIND_HIDDEN, LOGPROBS, MergeParams, REVISIT, SUM_BYTES, SelectParams, Setting, UnembedParams,
    size,
};
use super::plan::{ALIGNMENT, Plan, Wants, name};
use super::problem::Checked;
use super::variants;
use crate::device::{Device, Params, Variant};
use crate::tensor::Workspace;
use farspan_core::{Error, Result};

/// A planned call.
pub(super) struct Call<'a> {
    pub device: &'a dyn Device,
    pub checked: &'a Checked,
    pub plan: Plan,
    pub workspace: Workspace,
    /// What the pass takes in every launch.
    pub params: UnembedParams,
    pub rows: usize,
}

/// Where the list of a row's largest logits goes: `[rows, stride]` each, 0 for nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ListAt {
    pub entries: u64,
    pub token: u64,
    pub value: u64,
    /// Log-probabilities instead of logits.
    pub logprobs: bool,
    /// The group's totals, which the merge has written.
    pub total: u64,
}

impl<'a> Call<'a> {
    /// The call of `rows` rows, which may differ from those of hidden where each is read several times, or only some.
    pub(super) fn new(
        device: &'a dyn Device,
        checked: &'a Checked,
        rows: usize,
        wants: Wants,
        workspace: Workspace,
    ) -> Result<Call<'a>> {
        let plan =
            Plan::new(checked.dtype, rows, &checked.tokens.range(), wants, &device.limits()).within(workspace.bytes);
        workspace.check(plan.layout.bytes, ALIGNMENT)?;
        let params = UnembedParams {
            tiles: plan.tiles as i32,
            samples: wants.samples as i32,
            slot_count: plan.slots as i32,
            ..checked.params
        };
        Ok(Call { device, checked, plan, workspace, params, rows })
    }

    /// The groups of rows that share the workspace.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        let step = self.plan.rows_at_once.max(1);
        (0..self.rows).step_by(step).map(move |first| Group { call: self, first, rows: step.min(self.rows - first) })
    }
}

/// Some rows of a call.
pub(super) struct Group<'a> {
    call: &'a Call<'a>,
    pub first: usize,
    pub rows: usize,
}

impl Group<'_> {
    /// An address in the workspace.
    fn at(&self, offset: usize) -> u64 {
        self.call.workspace.pointer + offset as u64
    }

    /// Where this group's rows begin in a result, of `each` bytes a row.
    pub(super) fn own(&self, result: u64, each: usize) -> u64 {
        if result == 0 { 0 } else { result + (self.first * each) as u64 }
    }

    /// The number of the group's first row in a setting of `bytes` each; a setting without an address is the number.
    fn own_setting(&self, setting: Setting, bytes: i64) -> Setting {
        if setting.first == 0 {
            return setting;
        }
        Setting { first: setting.first.wrapping_add_signed(setting.stride * bytes * self.first as i64), ..setting }
    }

    pub(super) fn parts(&self) -> u64 {
        self.at(self.call.plan.layout.parts)
    }

    pub(super) fn bests(&self) -> u64 {
        self.at(self.call.plan.layout.bests)
    }

    pub(super) fn before(&self) -> u64 {
        self.at(self.call.plan.layout.before)
    }

    pub(super) fn total(&self) -> u64 {
        self.at(self.call.plan.layout.total)
    }

    pub(super) fn target_logit(&self) -> u64 {
        self.at(self.call.plan.layout.target)
    }

    /// What the pass takes for these rows.
    pub(super) fn params(&self, draws: DrawsAt, changes: ChangesAt) -> UnembedParams {
        UnembedParams {
            draws,
            changes,
            rows: self.rows as i32,
            first_row: self.first as i32,
            parts: self.parts(),
            ..self.call.params
        }
    }

    /// The same for a list of the largest.
    pub(super) fn listing(&self, params: UnembedParams) -> UnembedParams {
        UnembedParams { listed: self.call.plan.listed as i32, lists: self.at(self.call.plan.layout.lists), ..params }
    }

    /// The same for tokens to be ranked, one per row, of which `logit` are the logits.
    pub(super) fn ranking(&self, params: UnembedParams, target: Setting, logit: u64) -> UnembedParams {
        UnembedParams { target: self.own_setting(target, 8), target_logit: logit, before: self.before(), ..params }
    }

    fn launch(&self, variant: &Variant, blocks: usize, shared_bytes: usize, params: &impl Params) -> Result<()> {
        let blocks = u32::try_from(blocks).map_err(|_| Error::argument("hidden", "fewer rows at once", blocks))?;
        if blocks == 0 {
            return Ok(());
        }
        // SAFETY: the layouts are those of the kernels' structs; the addresses are the caller's, who answers for them,
        // and lie in the workspace, whose size has been checked.
        unsafe { self.call.device.launch(variant, [blocks, 1, 1], shared_bytes as u32, params.bytes()) }
    }

    /// Reads the vocabulary.
    pub(super) fn pass(&self, params: &UnembedParams) -> Result<()> {
        let Plan { tile_rows, tiles, shared_bytes, .. } = self.call.plan;
        let variant = variants::pass(name(self.call.checked.dtype), tile_rows);
        self.launch(&variant, self.rows.div_ceil(tile_rows) * tiles, shared_bytes, params)
    }

    /// Computes the logits of the rows' targets.
    pub(super) fn targets(&self, params: &UnembedParams) -> Result<()> {
        const ROWS_OF_BLOCK: usize = 32;
        let variant = variants::target(name(self.call.checked.dtype));
        let params = UnembedParams { target_out: self.target_logit(), ..*params };
        self.launch(&variant, self.rows.div_ceil(ROWS_OF_BLOCK), 0, &params)
    }

    /// Makes results of what the pass left. `results` holds this group's addresses.
    pub(super) fn merge(&self, results: MergeParams) -> Result<()> {
        const SHARED: usize = SUM_BYTES + 16 * size::MASS + 8 * size::BEST;
        let params = MergeParams {
            parts: self.parts(),
            row_map: self.call.params.row_map,
            hidden_rows: self.call.params.hidden_rows,
            first_row: self.first as i32,
            tiles: self.call.plan.tiles as i32,
            ..results
        };
        self.launch(&variants::merge(), self.rows, SHARED, &params)
    }

    /// Writes lists of the `count` largest entries, from the tiles' lists, which `params` had the pass leave. What lies
    /// behind the first window is read again, a window at a time.
    pub(super) fn list(&self, params: &UnembedParams, count: usize, to: &ListAt) -> Result<()> {
        let Plan { window, layout, .. } = self.call.plan;
        let below = self.at(layout.below);
        let mut params = UnembedParams { parts: 0, spreads: 0, before: 0, samples: 0, ..*params };
        for start in (0..count).step_by(window.max(1)) {
            if start > 0 {
                params.below = below;
                self.pass(&params)?;
            }
            let selected = window.min(count - start);
            let place = |result: u64, each: usize| {
                if result == 0 { 0 } else { self.own(result, count * each) + (start * each) as u64 }
            };
            let to = SelectParams {
                entries: place(to.entries, size::ENTRY),
                token: place(to.token, 8),
                value: place(to.value, 4),
                stride: count as i64,
                below: if start + selected < count { below } else { 0 },
                total: to.total,
                k: selected as i32,
                flags: if to.logprobs { LOGPROBS } else { 0 },
                ..SelectParams::default()
            };
            self.select(&params, to)?;
        }
        Ok(())
    }

    /// Writes one window; tiles that may hide a part of it are read again.
    fn select(&self, params: &UnembedParams, to: SelectParams) -> Result<()> {
        let Plan { tiles, listed, slots, layout, .. } = self.call.plan;
        let room = (to.k as usize).next_power_of_two();
        let shared_bytes = SUM_BYTES + room * size::ENTRY;
        let some = |offset: usize| if slots > 0 { self.at(offset) } else { 0 };
        let select = SelectParams {
            lists: self.at(layout.lists),
            overflow: some(layout.overflow),
            slots: some(layout.slots),
            tiles: tiles as i32,
            listed: listed as i32,
            slot_count: slots as i32,
            room: room as i32,
            ..to
        };
        let variant = variants::select();
        if slots > 0 {
            let find = SelectParams { flags: FIND_HIDDEN, ..select };
            self.launch(&variant, self.rows, shared_bytes, &find)?;
            let again = UnembedParams {
                slots: select.slots,
                overflow: select.overflow,
                flags: params.flags | REVISIT,
                ..*params
            };
            self.pass(&again)?;
        }
        self.launch(&variant, self.rows, shared_bytes, &select)
    }
}
