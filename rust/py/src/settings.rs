//! The small arguments of the unembedding's operations, as `farspan._backend.settings` lists them.

use crate::arrays::{integers, readonly};
use crate::failure::Outcome;
use crate::loss;
use crate::named::named;
use crate::shard::Place;
use farspan_core::sampler::{Mask, ORDERS, Order, Ragged, Settings};
use farspan_core::{Error, Result};
use farspan_cpu::unembed::{SampleOut, ScoreOut};
use numpy::ndarray::{Ix1, Ix2};
use numpy::{PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;

named! {
    /// `Rules`, whichever way a backend holds an array `A`.
    pub(crate) struct Rules<A> {
        scale: f64,
        softcap: Option<f64>,
        bias: Option<A>,
        valid_vocab: Option<usize>,
    }
}

named! {
    /// `Draws`.
    pub(crate) struct Draws<A> {
        seed: A,
        position: A,
        stream: A,
        temperature: A,
    }
}

named! {
    /// `Settings`.
    pub(crate) struct Given<A> {
        order: String,
        reals: Option<A>,
        counts: Option<A>,
        history_ids: Option<A>,
        history_offsets: Option<A>,
        prompt_lengths: Option<A>,
        bias_ids: Option<A>,
        bias_values: Option<A>,
        bias_offsets: Option<A>,
        banned_ids: Option<A>,
        banned_offsets: Option<A>,
        allowed_ids: Option<A>,
        allowed_offsets: Option<A>,
        mask: Option<A>,
        top: usize,
        samples: usize,
    }
}

/// The names that are read here, list by list: a test compares them with Python's.
pub(crate) fn lists() -> [(&'static str, Vec<&'static str>); 11] {
    [
        ("RULES", Rules::<()>::NAMES.to_vec()),
        ("DRAWS", Draws::<()>::NAMES.to_vec()),
        ("SETTINGS", Given::<()>::NAMES.to_vec()),
        ("REALS", Settings::REALS.to_vec()),
        ("COUNTS", Settings::COUNTS.to_vec()),
        ("SHARD", Place::<()>::NAMES.to_vec()),
        ("SAMPLE", SampleOut::NAMES.to_vec()),
        ("SCORE", ScoreOut::NAMES.to_vec()),
        ("CROSSENTROPY", loss::Settings::<()>::NAMES.to_vec()),
        ("SCOREREAD", loss::ScoreRead::<()>::NAMES.to_vec()),
        ("ORDERS", ORDERS.map(Order::name).to_vec()),
    ]
}

/// Settings of NumPy's arrays.
pub(crate) type GivenArrays<'py> = Given<Bound<'py, PyAny>>;

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
    fn new<'py>(
        argument: &'static str,
        ids: Option<&Bound<'py, PyAny>>,
        offsets: Option<&Bound<'py, PyAny>>,
    ) -> Result<Option<Lists>> {
        let (Some(ids), Some(offsets)) = (ids, offsets) else { return Ok(None) };
        Ok(Some(Lists { ids: integers(argument, ids)?, offsets: integers(argument, offsets)? }))
    }

    fn view(&self) -> Ragged<'_> {
        Ragged { ids: &self.ids, offsets: &self.offsets }
    }
}

impl<'py> Owned<'py> {
    /// Borrows the arrays. An error names the setting.
    pub(crate) fn new(given: &GivenArrays<'py>) -> Outcome<Self> {
        let table = |table: &Option<_>| table.clone().ok_or_else(|| Error::argument("settings", "a table", "None"));
        let bias = Lists::new("logit_bias", given.bias_ids.as_ref(), given.bias_offsets.as_ref())?;
        let logit_bias = match (bias, &given.bias_values) {
            (Some(lists), Some(values)) => {
                Some((lists, readonly::<f32, Ix1>("logit_bias", values)?.as_array().to_vec()))
            }
            _ => None,
        };
        let lengths = given.prompt_lengths.as_ref();
        Ok(Owned {
            order: Order::from_name(&given.order)?,
            reals: readonly("settings", &table(&given.reals)?)?,
            counts: readonly("settings", &table(&given.counts)?)?,
            history: Lists::new("history", given.history_ids.as_ref(), given.history_offsets.as_ref())?,
            prompt_lengths: lengths.map(|lengths| integers("prompt_lengths", lengths)).transpose()?,
            logit_bias,
            banned: Lists::new("banned", given.banned_ids.as_ref(), given.banned_offsets.as_ref())?,
            allowed: Lists::new("allowed", given.allowed_ids.as_ref(), given.allowed_offsets.as_ref())?,
            mask: given.mask.as_ref().map(|mask| readonly::<i32, Ix2>("mask", mask)).transpose()?,
            top: given.top,
            samples: given.samples,
        })
    }

    /// The settings, as the backend takes them.
    pub(crate) fn view(&self) -> Result<Settings<'_>> {
        let strided = |_| Error::argument("settings", "contiguous tables", "strided ones");
        let (reals, counts) = (self.reals.as_slice().map_err(strided)?, self.counts.as_slice().map_err(strided)?);
        let words = self.mask.as_ref().map(|mask| mask.as_slice().map_err(strided)).transpose()?;
        Ok(Settings {
            history: self.history.as_ref().map(Lists::view),
            prompt_lengths: self.prompt_lengths.as_deref(),
            logit_bias: self.logit_bias.as_ref().map(|(lists, values)| (lists.view(), &values[..])),
            banned: self.banned.as_ref().map(Lists::view),
            allowed: self.allowed.as_ref().map(Lists::view),
            mask: self.mask.as_ref().zip(words).map(|(mask, words)| Mask { words, width: mask.shape()[1] }),
            top: self.top,
            samples: self.samples,
            ..Settings::of_tables(self.order, reals, counts, self.reals.shape()[1])?
        })
    }
}
