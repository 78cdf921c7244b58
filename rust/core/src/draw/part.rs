//! What several readers found of the same rows in neighbouring parts of the vocabulary, sent from one to the other and
//! merged: the result has the bits of one reader of the whole.

use super::found::Found;
use super::plan::Plan;
use super::result::Results;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Changes whenever the encoding does.
const VERSION: u32 = 1;

/// What one reader found of some rows in its part of the vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    version: u32,
    /// The tokens that were read, as ids of the whole vocabulary.
    tokens: std::ops::Range<u64>,
    /// How many tokens exist in all.
    exist: u64,
    rows: Vec<Found>,
}

impl Part {
    /// What was found of `tokens`, of `exist` tokens in all.
    pub fn new(tokens: std::ops::Range<usize>, exist: usize, rows: Vec<Found>) -> Part {
        Part { version: VERSION, tokens: tokens.start as u64..tokens.end as u64, exist: exist as u64, rows }
    }

    /// The part as bytes, to be sent to the other readers.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let too_large = |error| Error::backend("shard", "a part that fits into memory", &error).because(error);
        postcard::to_allocvec(self).map_err(too_large)
    }

    /// The part that these bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Part> {
        let part: Part = postcard::from_bytes(bytes).map_err(|error| malformed(error.to_string()).because(error))?;
        match part.version {
            VERSION => Ok(part),
            other => Err(malformed(format!("version {other} instead of {VERSION}"))),
        }
    }
}

fn malformed(given: String) -> Error {
    Error::argument("gather", "what each shard gave it, unchanged", given)
}

/// Merges the parts of a call, in any order, and writes the results of its rows; gives those that are undecided.
///
/// `rows` are the places of the parts' rows in the call. With `whole`, they are rows that were undecided and whose
/// every logit the parts list.
pub fn merge(
    parts: Vec<Part>,
    plans: &[Plan],
    rows: &[usize],
    whole: bool,
    exist: usize,
    results: &mut Results,
) -> Result<Vec<usize>> {
    let joined = join(parts, plans, rows, whole, exist as u64, results.samples())?;
    let mut undecided = Vec::new();
    for (&row, found) in rows.iter().zip(&joined) {
        let plan = &plans[row];
        if whole {
            results.whole_row(row, plan, found);
        } else if results.row(row, plan, found).is_err() {
            undecided.push(row);
        }
    }
    Ok(undecided)
}

/// One `Found` per row of the whole vocabulary, checked: what arrives from elsewhere is not to be trusted blindly.
fn join(
    mut parts: Vec<Part>,
    plans: &[Plan],
    rows: &[usize],
    whole: bool,
    exist: u64,
    samples: usize,
) -> Result<Vec<Found>> {
    parts.sort_by_key(|part| (part.tokens.start, part.tokens.end));
    let mut next = 0;
    let mut joined: Vec<Found> = rows.iter().map(|_| Found::default()).collect();
    for part in parts {
        if part.tokens.start != next || part.exist != exist {
            let Part { tokens, exist: of, .. } = part;
            let given = format!("tokens {} to {} of {of}", tokens.start, tokens.end);
            return Err(Error::argument("gather", format!("a part from token {next} of {exist}"), given));
        }
        if part.rows.len() != rows.len() {
            return Err(malformed(format!("{} rows instead of {}", part.rows.len(), rows.len())));
        }
        next = part.tokens.end;
        for ((found, row), joined) in part.rows.into_iter().zip(rows).zip(&mut joined) {
            let plan = &plans[*row];
            let listed = if whole { usize::MAX } else { plan.listed };
            check(&found, if plan.free().is_some() && !whole { samples } else { 0 }, listed, &part.tokens)?;
            joined.append(found, listed);
        }
    }
    match next == exist {
        true => Ok(joined),
        false => Err(Error::argument("gather", format!("parts up to token {exist}"), format!("parts up to {next}"))),
    }
}

/// What the merge relies on: a list in order, as long as it must be, of tokens of this part.
fn check(found: &Found, samples: usize, listed: usize, tokens: &std::ops::Range<u64>) -> Result<()> {
    let nan = found.masses.iter().any(|mass| mass.max.is_nan());
    let fits = found.best.len() == samples
        && found.size <= tokens.end - tokens.start
        && found.list.len() <= listed
        && (nan || found.list.len() as u64 >= found.size.min(listed as u64))
        && found.list.is_sorted_by(|a, b| a > b)
        && found.list.iter().all(|entry| tokens.contains(&u64::from(entry.token())))
        && found.best.iter().all(|best| best.token.is_none_or(|token| tokens.contains(&u64::from(token))));
    match fits {
        true => Ok(()),
        false => Err(malformed("a row that no shard gives".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{Samples, plans};
    use crate::merge::{Best, Mass, Ranked};
    use crate::unembed::Draws;
    use proptest::prelude::*;

    const DRAWS: Draws = Draws { seed: &[7], position: &[0], stream: &[0], temperature: &[1.0] };

    /// One row of logits 0, in which a token won.
    fn part(tokens: std::ops::Range<usize>) -> Part {
        let list = tokens.clone().map(|token| Ranked::new(0.0, token as u32)).collect();
        let mass = Mass { max: 0.0, sum: tokens.len() as f32, ..Mass::NOTHING };
        let best = Best { score: tokens.start as f32, logit: 0.0, token: Some(tokens.start as u32) };
        let size = tokens.len() as u64;
        let row = Found { masses: vec![mass], best: vec![best], list, size, spreads: Vec::new() };
        Part::new(tokens, 6, vec![row])
    }

    fn merged(parts: Vec<Part>) -> Result<Samples> {
        let mut samples = Samples::new(1, 1, 0);
        let mut results = Results::new(samples.out(), 1, 1, 0)?;
        merge(parts, &plans(Some(&DRAWS), None, 1, 6), &[0], false, 6, &mut results)?;
        Ok(samples)
    }

    #[test]
    fn parts_may_arrive_in_any_order() {
        let samples = merged(vec![part(4..6), part(0..3), part(3..4)]).unwrap();
        assert_eq!((samples.token[0], samples.kept[0], samples.lse[0]), (4, 6, crate::elementary::ln(6.0)));
    }

    #[test]
    fn what_no_shard_gives_is_refused() {
        let altered = |alter: fn(&mut Part)| {
            let mut second = part(3..6);
            alter(&mut second);
            vec![part(0..3), second]
        };
        let wrong: [(&str, Vec<Part>); 9] = [
            ("a gap", vec![part(0..3), part(4..6)]),
            ("an overlap", vec![part(0..3), part(2..6)]),
            ("no end", vec![part(0..3)]),
            ("another vocabulary", altered(|part| part.exist = 7)),
            ("another batch", altered(|part| part.rows.clear())),
            ("a draw too few", altered(|part| part.rows[0].best.clear())),
            ("a list too short", altered(|part| part.rows[0].list.clear())),
            ("a list out of order", altered(|part| part.rows[0].list.reverse())),
            ("a token of another part", altered(|part| part.rows[0].list[0] = Ranked::new(0.0, 0))),
        ];
        for (what, parts) in wrong {
            assert!(matches!(merged(parts), Err(Error::Argument { argument: "gather", .. })), "{what}");
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut other = part(0..6);
        other.version += 1;
        assert!(Part::from_bytes(&other.to_bytes().unwrap()).is_err());
        assert_eq!(Part::from_bytes(&part(0..6).to_bytes().unwrap()), Ok(part(0..6)));
    }

    proptest! {
        #[test]
        fn damaged_bytes_do_no_harm(cut in 0usize..80, at in 0usize..80, flip in any::<u8>()) {
            let mut bytes = part(0..6).to_bytes().unwrap();
            bytes.truncate(bytes.len().saturating_sub(cut));
            let at = at % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
            if let Ok(part) = Part::from_bytes(&bytes) {
                let _ = merged(vec![part]);
            }
        }
    }
}
