//! The settings of a draw beyond seed and temperature, and what is a valid one.

use crate::error::{Error, Result};
use crate::noise;

/// Whose chain of cuts is followed: their order, their treatment of ties and of borders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hugging Face transformers: temperature, top-h, top-k, top-p, min-p, typical, epsilon, eta.
    Hf,
    /// vLLM: temperature, min-p, top-k, top-p.
    Vllm,
    /// SGLang: temperature, then top-k, top-p and min-p judged on one distribution.
    SgLang,
    /// llama.cpp: top-n-sigma, top-k, typical, top-p, min-p, XTC, then the temperature.
    LlamaCpp,
}

/// Every order.
pub const ORDERS: [Order; 4] = [Order::Hf, Order::Vllm, Order::SgLang, Order::LlamaCpp];

impl Order {
    /// The public name.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Hf => "hf",
            Order::Vllm => "vllm",
            Order::SgLang => "sglang",
            Order::LlamaCpp => "llamacpp",
        }
    }

    /// The order of this public name.
    pub fn from_name(name: &str) -> Result<Order> {
        ORDERS.into_iter().find(|order| order.name() == name).ok_or_else(|| {
            let expected = ORDERS.map(|order| format!("{:?}", order.name())).join(" or ");
            Error::argument("order", expected, format!("{name:?}"))
        })
    }
}

/// The cuts of one row. The default cuts nothing.
#[derive(Clone, Copy, Debug)]
pub struct Cuts {
    /// Whose chain.
    pub order: Order,
    /// Keep the k largest; 0 keeps all.
    pub top_k: usize,
    /// Keep the largest until their probabilities sum to p; 1 keeps all.
    pub top_p: f64,
    /// Keep what has at least this share of the largest probability; 0 keeps all.
    pub min_p: f64,
    /// Locally typical sampling: the mass kept; 1 keeps all.
    pub typical: f64,
    /// Keep probabilities from epsilon on; 0 keeps all.
    pub epsilon: f64,
    /// As epsilon, with `min(eta, sqrt(eta) exp(-entropy))`; 0 keeps all.
    pub eta: f64,
    /// Keep the largest until their entropy is this share of that of the hundred largest; 1 keeps all.
    pub top_h: f64,
    /// Keep logits within n standard deviations of the largest; 0 keeps all.
    pub top_n_sigma: f64,
    /// How often XTC applies.
    pub xtc_probability: f64,
    /// The probability from which XTC drops all but the least.
    pub xtc_threshold: f64,
    /// What `hf` and `llamacpp` keep at least.
    pub min_keep: usize,
}

impl Default for Cuts {
    fn default() -> Self {
        Cuts {
            order: Order::Hf,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical: 1.0,
            epsilon: 0.0,
            eta: 0.0,
            top_h: 1.0,
            top_n_sigma: 0.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            min_keep: 1,
        }
    }
}

impl Cuts {
    /// Whether any cut can drop a token.
    pub fn any(&self, coin: bool) -> bool {
        self.top_k > 0
            || self.top_p < 1.0
            || self.min_p > 0.0
            || self.typical < 1.0
            || self.epsilon > 0.0
            || self.eta > 0.0
            || self.top_h < 1.0
            || self.top_n_sigma > 0.0
            || coin
    }

    /// That every setting lies in its range; the error names the setting and the row.
    pub fn check(&self, row: usize) -> Result<()> {
        let within = |argument, value: f64, least: f64, most: f64, open: bool| {
            let fits = value <= most && if open { value > least } else { value >= least };
            if fits {
                return Ok(());
            }
            let bracket = if open { "(" } else { "[" };
            let upper = if most.is_finite() { format!("{most}]") } else { "inf)".into() };
            Err(Error::argument(
                argument,
                format!("a number in {bracket}{least}, {upper}"),
                format!("{value} in row {row}"),
            ))
        };
        within("top_p", self.top_p, 0.0, 1.0, false)?;
        within("min_p", self.min_p, 0.0, 1.0, false)?;
        within("typical", self.typical, 0.0, 1.0, true)?;
        within("epsilon", self.epsilon, 0.0, 1.0, false)?;
        within("eta", self.eta, 0.0, 1.0, false)?;
        within("top_h", self.top_h, 0.0, 1.0, true)?;
        within("top_n_sigma", self.top_n_sigma, 0.0, f64::INFINITY, false)?;
        within("xtc_probability", self.xtc_probability, 0.0, 1.0, false)?;
        within("xtc_threshold", self.xtc_threshold, 0.0, 1.0, false)
    }
}

/// The last counter word of the coin that decides whether XTC applies.
pub const XTC_DOMAIN: u32 = 1;

/// Whether XTC applies to the draw of these settings.
pub fn xtc_applies(seed: u64, stream: u32, position: u32, probability: f64) -> bool {
    if probability <= 0.0 {
        return false;
    }
    let [first, ..] = noise::philox([0, position, stream, XTC_DOMAIN], [seed as u32, (seed >> 32) as u32]);
    (f64::from(first) + 0.5) / 4_294_967_296.0 < probability
}
