//! The sampler settings of `_core.sample`: a tuple in the order of `farspan._settings.Settings`.

use crate::arrays::{integers, readonly};
use crate::failure::Outcome;
use farspan_core::sampler::{Mask, Order, Ragged, Settings};
use farspan_core::{Error, Result};
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

/// The arrays behind a [`Settings`], borrowed or copied for the call.
pub(crate) struct Owned<'py> {
    order: Order,
    reals: PyReadonlyArray2<'py, f64>,
    counts: PyReadonlyArray2<'py, i64>,
    history: Option<Lists>,
    prompt_lengths: Option<Vec<i64>>,
    logit_bias: Option<(Lists, Vec<f32>)>,
    banned: Option<Lists>,
    allowed: Option<Lists>,
    mask: Option<PyReadonlyArray2<'py, i32>>,
    top: usize,
    samples: usize,
}

struct Lists {
    ids: Vec<i64>,
    offsets: Vec<i64>,
}

impl Lists {
    fn view(&self) -> Ragged<'_> {
        Ragged { ids: &self.ids, offsets: &self.offsets }
    }
}

/// How many settings of each kind there are.
const REALS: usize = 14;
const COUNTS: usize = 4;

impl<'py> Owned<'py> {
    /// Reads the tuple. An error names the setting.
    pub(crate) fn new(settings: &Bound<'py, PyTuple>) -> Outcome<Self> {
        let order: String = settings.get_item(0)?.extract()?;
        let (top, samples) = (settings.get_item(14)?.extract()?, settings.get_item(15)?.extract()?);
        let items: Vec<_> = settings.iter().map(|item| (!item.is_none()).then_some(item)).collect();
        let lists = |argument: &'static str, at: usize, offsets_at: usize| -> Result<Option<Lists>> {
            let (Some(ids), Some(offsets)) = (&items[at], &items[offsets_at]) else { return Ok(None) };
            Ok(Some(Lists { ids: integers(argument, ids)?, offsets: integers(argument, offsets)? }))
        };
        let table = |at: usize| items[at].as_ref().ok_or_else(|| Error::argument("settings", "a table", "None"));
        let logit_bias = match (lists("logit_bias", 6, 8)?, &items[7]) {
            (Some(lists), Some(values)) => {
                Some((lists, readonly::<f32, Ix1>("logit_bias", values)?.as_array().to_vec()))
            }
            _ => None,
        };
        let owned = Owned {
            order: Order::from_name(&order)?,
            reals: readonly("settings", table(1)?)?,
            counts: readonly("settings", table(2)?)?,
            history: lists("history", 3, 4)?,
            prompt_lengths: items[5].as_ref().map(|lengths| integers("prompt_lengths", lengths)).transpose()?,
            logit_bias,
            banned: lists("banned", 9, 10)?,
            allowed: lists("allowed", 11, 12)?,
            mask: items[13].as_ref().map(|mask| readonly::<i32, Ix2>("mask", mask)).transpose()?,
            top,
            samples,
        };
        let given = [owned.reals.shape()[0], owned.counts.shape()[0]];
        if given != [REALS, COUNTS] {
            return Err(Error::argument("settings", format!("{REALS} and {COUNTS} rows"), format!("{given:?}")).into());
        }
        Ok(owned)
    }

    /// The settings, as the backend takes them.
    pub(crate) fn view(&self) -> Result<Settings<'_>> {
        let strided = |_| Error::argument("settings", "contiguous tables", "strided ones");
        let (reals, counts) = (self.reals.as_slice().map_err(strided)?, self.counts.as_slice().map_err(strided)?);
        let rows = self.reals.shape()[1];
        let real = |row: usize| &reals[row * rows..(row + 1) * rows];
        let count = |row: usize| &counts[row * self.counts.shape()[1]..(row + 1) * self.counts.shape()[1]];
        let words = self.mask.as_ref().map(|mask| mask.as_slice().map_err(strided)).transpose()?;
        Ok(Settings {
            order: self.order,
            top_p: real(0),
            min_p: real(1),
            typical: real(2),
            epsilon: real(3),
            eta: real(4),
            top_h: real(5),
            top_n_sigma: real(6),
            xtc_probability: real(7),
            xtc_threshold: real(8),
            repetition_penalty: real(9),
            frequency_penalty: real(10),
            presence_penalty: real(11),
            dry_multiplier: real(12),
            dry_base: real(13),
            top_k: count(0),
            min_keep: count(1),
            no_repeat_ngram: count(2),
            dry_allowed_length: count(3),
            history: self.history.as_ref().map(Lists::view),
            prompt_lengths: self.prompt_lengths.as_deref(),
            logit_bias: self.logit_bias.as_ref().map(|(lists, values)| (lists.view(), &values[..])),
            banned: self.banned.as_ref().map(Lists::view),
            allowed: self.allowed.as_ref().map(Lists::view),
            mask: self.mask.as_ref().zip(words).map(|(mask, words)| Mask { words, width: mask.shape()[1] }),
            top: self.top,
            samples: self.samples,
        })
    }
}
