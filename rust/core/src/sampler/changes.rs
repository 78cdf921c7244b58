//! What bias, penalties and bans do to single logits of a row: a short sorted list, applied where the row's tile
//! passes.

use std::collections::BTreeMap;

/// Everything that happens to one token's logit, in the order of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// Added first.
    pub bias: f32,
    /// Divides a logit of 0 or more and multiplies one below; `None` for a token that the history lacks.
    pub repetition: Option<f32>,
    /// Frequency, presence and DRY penalties, subtracted last.
    pub subtracted: f32,
    /// Sets the logit to -inf, whatever it was.
    pub banned: bool,
}

impl Change {
    /// The logit after the change. Nothing but a ban takes a finite one to -inf.
    pub fn apply(&self, logit: f32) -> f32 {
        if self.banned {
            return f32::NEG_INFINITY;
        }
        let held = |changed: f32| if logit.is_finite() { saturated(changed) } else { changed };
        let biased = held(logit + self.bias);
        let repeated = held(match self.repetition {
            Some(penalty) if biased < 0.0 => biased * penalty,
            Some(penalty) => biased / penalty,
            None => biased,
        });
        held(repeated - self.subtracted)
    }
}

/// The nearest finite number: a sum or product that float32 cannot hold is as large as it can be, and no ban.
fn saturated(x: f32) -> f32 {
    x.clamp(f32::MIN, f32::MAX)
}

/// Penalties of one row over its history.
#[derive(Clone, Copy, Debug)]
pub struct Penalties {
    /// By sign, once per token that the history holds; 1 changes nothing.
    pub repetition: f32,
    /// Times the token's count behind the prompt.
    pub frequency: f32,
    /// Once per token behind the prompt.
    pub presence: f32,
    /// Bans tokens that would complete an n-gram of the history; 0 bans none.
    pub no_repeat_ngram: usize,
    /// DRY's factor; 0 turns it off.
    pub dry_multiplier: f32,
    /// DRY's base.
    pub dry_base: f32,
    /// The match from which DRY penalises.
    pub dry_allowed_length: usize,
}

impl Default for Penalties {
    fn default() -> Self {
        Penalties {
            repetition: 1.0,
            frequency: 0.0,
            presence: 0.0,
            no_repeat_ngram: 0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
        }
    }
}

/// The lists of one row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lists<'a> {
    /// All tokens of the sequence so far.
    pub history: &'a [u32],
    /// How many of them are its prompt.
    pub prompt_length: usize,
    /// Tokens and what is added to their logits; duplicates add.
    pub bias: (&'a [u32], &'a [f32]),
    /// Tokens that cannot come.
    pub banned: &'a [u32],
}

/// The changes of one row, by token.
pub fn changes(lists: &Lists, penalties: &Penalties) -> Vec<(u32, Change)> {
    let mut out: BTreeMap<u32, Change> = BTreeMap::new();
    for (&token, &value) in lists.bias.0.iter().zip(lists.bias.1) {
        let change = out.entry(token).or_default();
        change.banned |= value == f32::NEG_INFINITY;
        change.bias = saturated(change.bias + value);
    }
    if penalties.repetition != 1.0 {
        for &token in lists.history {
            out.entry(token).or_default().repetition = Some(penalties.repetition);
        }
    }
    if penalties.frequency != 0.0 || penalties.presence != 0.0 {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for &token in &lists.history[lists.prompt_length..] {
            *counts.entry(token).or_default() += 1;
        }
        for (token, count) in counts {
            let penalty = saturated(penalties.frequency * count as f32) + penalties.presence;
            out.entry(token).or_default().subtracted = saturated(penalty);
        }
    }
    if penalties.dry_multiplier != 0.0 || penalties.no_repeat_ngram > 1 {
        let matches = suffix_matches(lists.history);
        if penalties.dry_multiplier != 0.0 {
            let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
            for &(token, length) in matches.iter().filter(|(_, length)| *length > 0) {
                let known = longest.entry(token).or_default();
                *known = length.max(*known);
            }
            for (token, length) in longest {
                if let Some(excess) = length.checked_sub(penalties.dry_allowed_length) {
                    let penalty = f64::from(penalties.dry_base).powi(excess.min(i32::MAX as usize) as i32);
                    let penalty = saturated((f64::from(penalties.dry_multiplier) * penalty) as f32);
                    let change = out.entry(token).or_default();
                    change.subtracted = saturated(change.subtracted + penalty);
                }
            }
        }
        if penalties.no_repeat_ngram > 1 {
            for (token, _) in matches.iter().filter(|(_, length)| *length >= penalties.no_repeat_ngram - 1) {
                out.entry(*token).or_default().banned = true;
            }
        }
    }
    if penalties.no_repeat_ngram == 1 {
        for &token in lists.history {
            out.entry(token).or_default().banned = true;
        }
    }
    for &token in lists.banned {
        out.entry(token).or_default().banned = true;
    }
    out.into_iter().collect()
}

/// For each earlier place of the history: the token that followed there, and how many tokens before it are also the
/// last tokens of the history. The Z function of the reversed history, in linear time.
fn suffix_matches(history: &[u32]) -> Vec<(u32, usize)> {
    let n = history.len();
    let reversed = |i: usize| history[n - 1 - i];
    let mut z = vec![0; n];
    let (mut left, mut right) = (0, 0);
    for i in 1..n {
        let mut length = if i < right { (right - i).min(z[i - left]) } else { 0 };
        while i + length < n && reversed(length) == reversed(i + length) {
            length += 1;
        }
        z[i] = length;
        if i + length > right {
            (left, right) = (i, i + length);
        }
    }
    // The place i tokens before the end is followed by the token one place later.
    (1..n).map(|i| (reversed(i - 1), z[i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(history: &[u32]) -> Vec<(u32, usize)> {
        let n = history.len();
        (0..n.saturating_sub(1))
            .rev()
            .map(|end| {
                let same = |k: &usize| *k <= end && history[end - k] == history[n - 1 - k];
                (history[end + 1], (0..n).take_while(same).count())
            })
            .collect()
    }

    #[test]
    fn matches_are_those_of_the_definition() {
        for seed in 0..500u64 {
            let length = seed % 23;
            let mut state = seed;
            let history: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) as u32 % 3
                })
                .collect();
            assert_eq!(suffix_matches(&history), naive(&history), "{history:?}");
        }
    }

    #[test]
    fn the_published_dry_example() {
        // a b c c b c y a b c: c would extend three tokens, b one, y two.
        let history = [1, 2, 3, 3, 2, 3, 9, 1, 2, 3];
        let penalties = Penalties { dry_multiplier: 1.0, dry_base: 2.0, dry_allowed_length: 1, ..Default::default() };
        let lists = Lists { history: &history, ..Default::default() };
        let found: Vec<(u32, f32)> = changes(&lists, &penalties).iter().map(|(t, c)| (*t, c.subtracted)).collect();
        assert_eq!(found, [(2, 1.0), (3, 4.0), (9, 2.0)]);
    }

    #[test]
    fn n_grams_ban_what_followed() {
        let banned = |history: &[u32], n| -> Vec<u32> {
            let lists = Lists { history, ..Default::default() };
            changes(&lists, &Penalties { no_repeat_ngram: n, ..Default::default() }).iter().map(|c| c.0).collect()
        };
        assert_eq!(banned(&[1, 2, 1, 3, 1], 2), [2, 3]);
        assert_eq!(banned(&[4, 5], 1), [4, 5]);
        assert!(banned(&[4], 3).is_empty());
    }

    #[test]
    fn the_sign_decides_the_repetition_penalty_and_a_ban_beats_nan() {
        let change = Change { repetition: Some(2.0), ..Default::default() };
        assert_eq!([change.apply(3.0), change.apply(-3.0)], [1.5, -6.0]);
        assert_eq!(Change { banned: true, ..Default::default() }.apply(f32::NAN), f32::NEG_INFINITY);
    }

    #[test]
    fn what_float32_cannot_hold_is_no_ban() {
        let history: Vec<u32> = (0..4000).map(|i| 1 + i % 2).collect();
        let only = |penalties: &Penalties, bias: (&[u32], &[f32])| {
            let lists = Lists { history: &history, bias, ..Default::default() };
            changes(&lists, penalties).into_iter().find(|(token, _)| *token == 1).unwrap().1
        };
        let dry = Penalties { dry_multiplier: 0.8, ..Default::default() };
        let frequency = |frequency| Penalties { frequency, ..Default::default() };
        let cases = [
            (only(&dry, (&[], &[])), f32::MIN),
            (only(&frequency(3e38), (&[], &[])), f32::MIN),
            (only(&frequency(-3e38), (&[], &[])), f32::MAX),
            (only(&Penalties { frequency: -3e38, ..dry }, (&[], &[])), -1.0),
            (only(&Penalties::default(), (&[1, 1], &[-3e38, -3e38])), f32::MIN),
            (Change { repetition: Some(3e38), ..Default::default() }, -3e38),
            (Change { repetition: Some(3e38), ..only(&dry, (&[], &[])) }, f32::MIN),
        ];
        for (change, expected) in cases {
            assert!(!change.banned);
            assert_eq!(change.apply(-1.0), expected, "{change:?}");
            assert!(change.apply(f32::NAN).is_nan());
            assert_eq!(change.apply(f32::NEG_INFINITY), f32::NEG_INFINITY);
        }
        assert!(only(&Penalties::default(), (&[1], &[f32::NEG_INFINITY])).banned);
    }
}
