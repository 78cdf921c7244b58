//! What reading a row's logits found.

use crate::merge::{Best, Mass, Ranked, Spread};
use serde::{Deserialize, Serialize};

/// What a row's logits of some neighbouring tokens are remembered by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Softmax sums of stretches of a fixed length, in order of tokens. Float32 sums keep their bits only when they
    /// are added in the same order again, so they are not added up here.
    pub masses: Vec<Mass>,
    /// The token of each sample, of a row from which nothing is cut.
    pub best: Vec<Best>,
    /// The largest logits in falling order, equal ones by id.
    pub list: Vec<Ranked>,
    /// How many logits are above -inf.
    pub size: u64,
    /// Spreads of chunks, in order of tokens; only where the deviation is asked for.
    pub spreads: Vec<Spread>,
}

impl Found {
    /// Adds what was found of the tokens that follow, keeping the `listed` largest logits.
    pub fn append(&mut self, next: Found, listed: usize) {
        self.masses.extend(next.masses);
        if self.best.is_empty() {
            self.best = next.best;
        } else {
            self.best.iter_mut().zip(next.best).for_each(|(best, other)| *best = best.merge(other));
        }
        self.list.extend(next.list);
        self.list.sort_unstable_by(|a, b| b.cmp(a));
        self.list.truncate(listed);
        self.size += next.size;
        self.spreads.extend(next.spreads);
    }

    /// The softmax sums of all tokens.
    pub fn mass(&self, inverse_temperature: f32) -> Mass {
        Mass::fold(&self.masses, inverse_temperature)
    }

    /// The population standard deviation of the finite logits, where spreads were kept.
    pub fn deviation(&self) -> f64 {
        self.spreads.iter().fold(Spread::default(), |sum, spread| sum.merge(*spread)).deviation()
    }
}
