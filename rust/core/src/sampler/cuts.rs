//! Which tokens a row's cuts leave, decided on the head of its sorted logits.
//!
//! One pass over the vocabulary leaves, for each row, its largest logits in order and a few sums over all of them.
//! Nearly every cut falls within that head and is decided by it exactly; where one does not, [`Undecided`] says so, and
//! the row is sorted whole. The chain is written once for both: a whole row is a head that happens to be complete.
//!
//! Sums run in float64 in falling order of the logits, equal ones by id, so a decision depends on the row alone. A
//! setting that is a share is multiplied by the sum of all, never a term divided by it: the terms of equal logits are
//! 1 each, or one number each, and add up exactly where their quotients would not.

use super::settings::{Cuts, Order};
use crate::merge::Ranked;

/// Sums over `x = (l - max l) / temperature` of all tokens of finite logit.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Sum of `exp(x)`.
    pub mass: f64,
    /// Sum of `x exp(x)`.
    pub energy: f64,
}

impl Totals {
    /// Entropy of the softmax in nats.
    pub fn entropy(&self) -> f64 {
        self.mass.ln() - self.energy / self.mass
    }

    /// The totals of these entries, whose largest logit is `max`.
    pub fn of(entries: &[Ranked], max: f32, temperature: f32) -> Totals {
        let mut totals = Totals { mass: 0.0, energy: 0.0 };
        for entry in entries {
            let x = scaled(entry.logit(), max, temperature);
            totals.mass += x.exp();
            totals.energy += x * x.exp();
        }
        totals
    }
}

/// `(l - max) / temperature`; 0 of the largest logit, infinite or not.
pub fn scaled(logit: f32, max: f32, temperature: f32) -> f64 {
    if logit == max {
        return 0.0;
    }
    (f64::from(logit) - f64::from(max)) / f64::from(temperature)
}

/// What one pass over a row leaves.
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a> {
    /// The largest logits in falling order, equal ones by id. All of the row's finite ones when there are `size` of
    /// them.
    pub head: &'a [Ranked],
    /// How many tokens have a finite logit.
    pub size: usize,
    /// The sums at temperature 1.
    pub plain: Totals,
    /// The sums at the row's temperature.
    pub warm: Totals,
    /// The population standard deviation of the finite logits.
    pub deviation: f64,
}

/// The head was too short to decide a cut: the row must be sorted whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided;

/// What the cuts leave.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// Every token of finite logit.
    All,
    /// These, in falling order of logit, equal ones by id. Never empty.
    Some(Vec<Ranked>),
}

/// Applies the cuts of one row in the order of the system they imitate.
///
/// `coin` says whether XTC applies to the row (see [`super::settings::xtc_applies`]). The temperature must be above 0.
pub fn cut(row: &Summary, cuts: &Cuts, temperature: f32, coin: bool) -> Result<Kept, Undecided> {
    if row.size == 0 || !cuts.any(coin) {
        return Ok(Kept::All);
    }
    if row.head[0].logit() == f32::INFINITY {
        // Infinite logits share the mass evenly, whatever is cut.
        let mut state = State::new(row, temperature, row.warm);
        state.keep(state.leading(|entry| entry.logit() == f32::INFINITY))?;
        return Ok(Kept::Some(state.entries));
    }
    // llama.cpp judges its cuts before the temperature; the others divide first.
    let before = cuts.order == Order::LlamaCpp;
    let mut state = State::new(row, if before { 1.0 } else { temperature }, if before { row.plain } else { row.warm });
    let min_keep = match cuts.order {
        Order::Hf | Order::LlamaCpp => cuts.min_keep.max(1),
        Order::Vllm | Order::SgLang => 1,
    };
    match cuts.order {
        Order::Hf => {
            state.keep(state.top_h(cuts.top_h))?;
            state.keep(state.top_k(cuts.top_k, min_keep, Ties::Kept))?;
            state.keep(state.top_p(cuts.top_p, min_keep, Border::Outside))?;
            state.keep(state.min_p(cuts.min_p, min_keep))?;
            state.typical(cuts.typical, min_keep, Stop::Reached)?;
            state.keep(state.epsilon(cuts.epsilon, min_keep))?;
            state.keep(state.eta(cuts.eta, min_keep))?;
            state.keep(state.top_n_sigma(cuts.top_n_sigma))?;
            state.xtc(coin, cuts.xtc_threshold, min_keep)?;
        }
        Order::Vllm | Order::SgLang => {
            if cuts.order == Order::Vllm {
                state.keep(state.min_p(cuts.min_p, min_keep))?;
                state.keep(state.top_k(cuts.top_k, min_keep, Ties::Kept))?;
                state.keep(state.top_p(cuts.top_p, min_keep, Border::Outside))?;
            } else {
                let counts = [
                    state.top_k(cuts.top_k, min_keep, Ties::Dropped),
                    state.top_p(cuts.top_p, min_keep, Border::Inside),
                    state.min_p(cuts.min_p, min_keep),
                ];
                state.keep(counts.into_iter().fold(Count::All, Count::least))?;
            }
            state.keep(state.top_h(cuts.top_h))?;
            state.typical(cuts.typical, min_keep, Stop::Reached)?;
            state.keep(state.epsilon(cuts.epsilon, min_keep))?;
            state.keep(state.eta(cuts.eta, min_keep))?;
            state.keep(state.top_n_sigma(cuts.top_n_sigma))?;
            state.xtc(coin, cuts.xtc_threshold, min_keep)?;
        }
        Order::LlamaCpp => {
            state.keep(state.top_n_sigma(cuts.top_n_sigma))?;
            state.keep(state.top_k(cuts.top_k, min_keep, Ties::Dropped))?;
            state.typical(cuts.typical, min_keep, Stop::Passed)?;
            state.keep(state.top_p(cuts.top_p, min_keep, Border::Outside))?;
            state.keep(state.min_p(cuts.min_p, min_keep))?;
            state.xtc(coin, cuts.xtc_threshold, min_keep)?;
            state.keep(state.top_h(cuts.top_h))?;
            state.keep(state.epsilon(cuts.epsilon, min_keep))?;
            state.keep(state.eta(cuts.eta, min_keep))?;
        }
    }
    Ok(if state.entries.len() == row.size || state.rest.is_some() { Kept::All } else { Kept::Some(state.entries) })
}

/// Whether top-k keeps what ties with the k-th.
#[derive(Clone, Copy, PartialEq)]
enum Ties {
    Kept,
    Dropped,
}

/// Whether a token with exactly p before it is still within top-p.
#[derive(Clone, Copy, PartialEq)]
enum Border {
    Inside,
    Outside,
}

/// Whether typical sampling stops when its mass is reached, ties included, or once it is passed, ties cut.
#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Reached,
    Passed,
}

/// How many of the sorted tokens a cut keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Count {
    All,
    First(usize),
    /// More than the head holds.
    Beyond,
}

impl Count {
    fn least(self, other: Count) -> Count {
        match (self, other) {
            (Count::First(a), Count::First(b)) => Count::First(a.min(b)),
            (Count::First(a), _) | (_, Count::First(a)) => Count::First(a),
            (Count::Beyond, _) | (_, Count::Beyond) => Count::Beyond,
            (Count::All, Count::All) => Count::All,
        }
    }
}

/// What is known of the tokens still there while only their head is.
struct Rest {
    size: usize,
    totals: Totals,
    deviation: f64,
}

/// The tokens that the cuts so far have left: their head, and the rest unless the head is all of them.
struct State {
    entries: Vec<Ranked>,
    rest: Option<Rest>,
    max: f32,
    temperature: f32,
}

impl State {
    fn new(row: &Summary, temperature: f32, totals: Totals) -> State {
        let complete = row.head.len() == row.size;
        let rest = Rest { size: row.size, totals, deviation: row.deviation / f64::from(temperature) };
        State { entries: row.head.to_vec(), rest: (!complete).then_some(rest), max: row.head[0].logit(), temperature }
    }

    fn size(&self) -> usize {
        self.rest.as_ref().map_or(self.entries.len(), |rest| rest.size)
    }

    fn x(&self, entry: &Ranked) -> f64 {
        scaled(entry.logit(), self.max, self.temperature)
    }

    fn totals(&self) -> Totals {
        self.rest.as_ref().map_or_else(|| Totals::of(&self.entries, self.max, self.temperature), |rest| rest.totals)
    }

    /// As a count: the sorted tokens before the first for which `inside` is false.
    fn leading(&self, inside: impl FnMut(&Ranked) -> bool) -> Count {
        let count = self.entries.iter().take_while({
            let mut inside = inside;
            move |entry| inside(entry)
        });
        match count.count() {
            count if count < self.entries.len() => Count::First(count),
            _ if self.rest.is_some() => Count::Beyond,
            _ => Count::All,
        }
    }

    fn at_least(&self, count: Count, least: usize) -> Count {
        match count {
            Count::First(count) if least >= self.size() && count < least => Count::All,
            Count::First(count) if count < least && least > self.entries.len() => Count::Beyond,
            Count::First(count) => Count::First(count.max(least)),
            other => other,
        }
    }

    fn keep(&mut self, count: Count) -> Result<(), Undecided> {
        match count {
            Count::All => Ok(()),
            Count::Beyond => Err(Undecided),
            Count::First(count) => {
                self.entries.truncate(count);
                self.rest = None;
                Ok(())
            }
        }
    }

    fn top_k(&self, k: usize, min_keep: usize, ties: Ties) -> Count {
        let wanted = k.max(min_keep);
        if k == 0 || wanted >= self.size() {
            return Count::All;
        }
        match self.entries.get(wanted - 1) {
            None => Count::Beyond,
            Some(_) if ties == Ties::Dropped => Count::First(wanted),
            Some(&last) => self.leading(|entry| entry.logit() >= last.logit()),
        }
    }

    fn top_p(&self, p: f64, min_keep: usize, border: Border) -> Count {
        if p >= 1.0 {
            return Count::All;
        }
        let limit = p * self.totals().mass;
        let mut before = 0.0;
        let inside = self.leading(|entry| {
            let within = before < limit || (border == Border::Inside && before <= limit);
            before += self.x(entry).exp();
            within
        });
        self.at_least(inside, min_keep)
    }

    fn min_p(&self, ratio: f64, min_keep: usize) -> Count {
        if ratio <= 0.0 {
            return Count::All;
        }
        let first = self.entries[0];
        let largest = self.x(&first);
        let inside = self.leading(|entry| entry.logit() == first.logit() || (self.x(entry) - largest).exp() >= ratio);
        self.at_least(inside, min_keep)
    }

    fn epsilon(&self, epsilon: f64, min_keep: usize) -> Count {
        if epsilon <= 0.0 { Count::All } else { self.floor(epsilon, min_keep) }
    }

    fn eta(&self, eta: f64, min_keep: usize) -> Count {
        if eta <= 0.0 {
            return Count::All;
        }
        self.floor(eta.min(eta.sqrt() * (-self.totals().entropy()).exp()), min_keep)
    }

    /// Keeps probabilities from `limit` on, and whatever ties with the `min_keep`-th.
    fn floor(&self, limit: f64, min_keep: usize) -> Count {
        let Some(&least) = self.entries.get(min_keep.min(self.size()) - 1) else { return Count::Beyond };
        let limit = limit * self.totals().mass;
        self.leading(|entry| entry.logit() >= least.logit() || self.x(entry).exp() >= limit)
    }

    fn top_n_sigma(&self, n: f64) -> Count {
        if n <= 0.0 || self.size() <= 1 {
            return Count::All;
        }
        let deviation = self.rest.as_ref().map_or_else(|| self.deviation(), |rest| rest.deviation);
        if !deviation.is_finite() {
            return Count::Beyond; // the pass squares in float32, which a penalised logit may be too far away for
        }
        let border = self.x(&self.entries[0]) - n * deviation;
        self.leading(|entry| self.x(entry) >= border)
    }

    fn deviation(&self) -> f64 {
        let count = self.entries.len() as f64;
        let mean = self.entries.iter().map(|entry| self.x(entry)).sum::<f64>() / count;
        (self.entries.iter().map(|entry| (self.x(entry) - mean).powi(2)).sum::<f64>() / count).sqrt()
    }

    /// Hugging Face looks at the hundred largest only.
    fn top_h(&self, share: f64) -> Count {
        const LOOKED_AT: usize = 100;
        if share >= 1.0 {
            return Count::All;
        }
        let Some(head) = self.entries.get(..self.size().min(LOOKED_AT)) else { return Count::Beyond };
        let totals = Totals::of(head, self.max, self.temperature);
        let (normaliser, limit) = (totals.mass.ln(), share * totals.entropy());
        let mut sum = 0.0;
        let inside = head.iter().take_while(|entry| {
            let log_p = self.x(entry) - normaliser;
            sum -= log_p.exp() * log_p;
            sum <= limit
        });
        match inside.count().max(1) {
            count if count == self.size() => Count::All,
            count => Count::First(count),
        }
    }

    fn typical(&mut self, mass: f64, min_keep: usize, stop: Stop) -> Result<(), Undecided> {
        if mass >= 1.0 {
            return Ok(());
        }
        if self.rest.is_some() {
            return Err(Undecided);
        }
        let totals = self.totals();
        let (normaliser, entropy) = (totals.mass.ln(), totals.entropy());
        let mut order: Vec<(f64, f64, Ranked)> = self
            .entries
            .iter()
            .map(|entry| {
                let x = self.x(entry);
                ((normaliser - x - entropy).abs(), x.exp(), *entry)
            })
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.2.token().cmp(&b.2.token())));
        let (mut sum, limit) = (0.0, mass * totals.mass);
        let short = order.iter().enumerate().take_while(|(index, (_, power, _))| {
            sum += power;
            match stop {
                Stop::Reached => sum < limit,
                Stop::Passed => sum <= limit || index + 1 < min_keep,
            }
        });
        let last = short.count().min(order.len() - 1);
        let count = match stop {
            Stop::Reached => order.partition_point(|(away, _, _)| *away <= order[last].0).max(min_keep),
            Stop::Passed => last + 1,
        };
        self.entries = order.into_iter().take(count).map(|(_, _, entry)| entry).collect();
        self.entries.sort_unstable_by(|a, b| b.cmp(a));
        Ok(())
    }

    /// Drops all but the least of the tokens above the threshold.
    fn xtc(&mut self, coin: bool, threshold: f64, min_keep: usize) -> Result<(), Undecided> {
        if !coin || threshold > 0.5 || self.size() < 2 {
            return Ok(());
        }
        let limit = threshold * self.totals().mass;
        let above = match self.leading(|entry| self.x(entry).exp() >= limit) {
            Count::Beyond => return Err(Undecided),
            Count::All => self.entries.len(),
            Count::First(count) => count,
        };
        if above < 2 || self.size() - (above - 1) < min_keep {
            return Ok(());
        }
        if self.rest.is_some() {
            return Err(Undecided);
        }
        self.entries.drain(..above - 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
