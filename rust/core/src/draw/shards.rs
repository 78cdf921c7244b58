//! A vocabulary of which several readers hold a part each: each sends its statistics of the same rows to all, and
//! everyone joins them. The result has the bits of one reader of the whole.

use super::decide::{Read, RowStatistics};
use super::plan::Plan;
use super::result::UNRANKED;
use crate::error::{Error, Result};
use crate::unembed::Tokens;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// Changes whenever the encoding does.
const VERSION: u32 = 2;

/// What one reader sends to the others: the statistics of some rows over its part of the vocabulary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Message {
    version: u32,
    /// The tokens that were read, as ids of the whole vocabulary.
    tokens: Range<u64>,
    /// How many tokens of the whole vocabulary are valid, padding left out: the same number for every reader.
    valid_vocab: u64,
    rows: Vec<RowStatistics>,
}

impl Message {
    fn new(tokens: Range<usize>, valid_vocab: usize, rows: Vec<RowStatistics>) -> Message {
        let tokens = tokens.start as u64..tokens.end as u64;
        Message { version: VERSION, tokens, valid_vocab: valid_vocab as u64, rows }
    }

    /// The message as bytes.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        let too_large = |error| Error::backend("shard", "a part that fits into memory", &error).because(error);
        postcard::to_allocvec(self).map_err(too_large)
    }

    /// The message that these bytes are.
    fn from_bytes(bytes: &[u8]) -> Result<Message> {
        let message: Message =
            postcard::from_bytes(bytes).map_err(|error| malformed(error.to_string()).because(error))?;
        match message.version {
            VERSION => Ok(message),
            other => Err(malformed(format!("version {other} instead of {VERSION}"))),
        }
    }
}

fn malformed(given: String) -> Error {
    Error::argument("gather", "what each shard gave it, unchanged", given)
}

/// Bytes of lists of every logit that are sent at a time. All holders must agree on it.
const MOST_BYTES: usize = 8 << 20;

/// Sends bytes to every holder of a part and gives what all of them sent, in any order, the caller's included.
pub type Gather<'g, F> = dyn FnMut(Vec<u8>) -> Result<Vec<Vec<u8>>, F> + 'g;

/// A reader of one part of a vocabulary, joined with the readers of the others.
///
/// Nearly every row is decided by one exchange. A row whose cuts lie behind its largest logits, which is the same row
/// for every holder, takes a second one with all of its logits.
pub struct Shards<'p, R, F> {
    reader: R,
    plans: &'p [Plan],
    samples: usize,
    tokens: Tokens,
    gather: &'p mut Gather<'p, F>,
}

impl<'p, R, F> Shards<'p, R, F> {
    /// `reader` reads `tokens` of rows with these plans, from each of which `samples` tokens are drawn.
    pub fn new(reader: R, plans: &'p [Plan], samples: usize, tokens: Tokens, gather: &'p mut Gather<'p, F>) -> Self {
        Shards { reader, plans, samples, tokens, gather }
    }
}

impl<R: Read, F: From<R::Failure> + From<Error>> Read for Shards<'_, R, F> {
    type Failure = F;

    fn read(&mut self, whole: Option<&[usize]>) -> Result<Vec<RowStatistics>, F> {
        let own = Message::new(self.tokens.range(), self.tokens.valid_vocab, self.reader.read(whole)?);
        let messages = (self.gather)(own.to_bytes()?)?;
        let messages = messages.iter().map(|bytes| Message::from_bytes(bytes)).collect::<Result<Vec<_>>>()?;
        let plans: Vec<&Plan> = match whole {
            Some(rows) => rows.iter().map(|&row| &self.plans[row]).collect(),
            None => self.plans.iter().collect(),
        };
        Ok(join(messages, &plans, whole.is_some(), self.tokens.valid_vocab as u64, self.samples)?)
    }

    fn most_bytes(&self) -> usize {
        MOST_BYTES
    }
}

/// Ranks of which each holder counted its own tokens: those that were [`UNRANKED`] become the sums of what all of them
/// counted, int64 numbers as bytes.
pub fn sum_ranks(known: &mut [i64], counted: &[impl AsRef<[u8]>]) -> Result<()> {
    if counted.is_empty() {
        return Err(malformed("nothing".into()));
    }
    for counts in counted.iter().map(AsRef::as_ref) {
        if counts.len() != size_of_val(known) {
            return Err(malformed(format!("{} bytes of {} ranks", counts.len(), known.len())));
        }
    }
    for (at, rank) in known.iter_mut().enumerate().filter(|(_, rank)| **rank == UNRANKED) {
        let counts = counted.iter().map(|counts| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&counts.as_ref()[at * 8..][..8]);
            i64::from_le_bytes(bytes)
        });
        *rank = counts.fold(0, i64::saturating_add);
    }
    Ok(())
}

/// The statistics of each row over the whole vocabulary, checked: what arrives from elsewhere is not to be trusted
/// blindly.
fn join(
    mut messages: Vec<Message>,
    plans: &[&Plan],
    whole: bool,
    valid_vocab: u64,
    samples: usize,
) -> Result<Vec<RowStatistics>> {
    messages.sort_by_key(|message| (message.tokens.start, message.tokens.end));
    let mut next = 0;
    let mut joined: Vec<RowStatistics> = plans.iter().map(|_| RowStatistics::default()).collect();
    for message in messages {
        if message.tokens.start != next || message.valid_vocab != valid_vocab {
            let Message { tokens, valid_vocab: of, .. } = message;
            let given = format!("tokens {} to {} of {of}", tokens.start, tokens.end);
            return Err(Error::argument("gather", format!("a part from token {next} of {valid_vocab}"), given));
        }
        if message.rows.len() != plans.len() {
            return Err(malformed(format!("{} rows instead of {}", message.rows.len(), plans.len())));
        }
        next = message.tokens.end;
        for ((statistics, plan), joined) in message.rows.into_iter().zip(plans).zip(&mut joined) {
            let listed = if whole { usize::MAX } else { plan.listed };
            let samples = if plan.free().is_some() && !whole { samples } else { 0 };
            check(&statistics, samples, listed, &message.tokens)?;
            joined.append(statistics, listed);
        }
    }
    match next == valid_vocab {
        true => Ok(joined),
        false => {
            Err(Error::argument("gather", format!("parts up to token {valid_vocab}"), format!("parts up to {next}")))
        }
    }
}

/// What the merge relies on: a list in order, as long as it must be, of tokens of this part.
fn check(statistics: &RowStatistics, samples: usize, listed: usize, tokens: &Range<u64>) -> Result<()> {
    let nan = statistics.masses.iter().any(|mass| mass.max.is_nan());
    let fits = statistics.best.len() == samples
        && statistics.size <= tokens.end - tokens.start
        && statistics.list.len() <= listed
        && (nan || statistics.list.len() as u64 >= statistics.size.min(listed as u64))
        && statistics.list.is_sorted_by(|a, b| a > b)
        && statistics.list.iter().all(|entry| tokens.contains(&u64::from(entry.token())))
        && statistics.best.iter().all(|best| best.token.is_none_or(|token| tokens.contains(&u64::from(token))));
    match fits {
        true => Ok(()),
        false => Err(malformed("a row that no shard gives".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{Results, Samples, decide, plans};
    use crate::merge::{Best, Mass, Ranked};
    use crate::unembed::{Draws, HostDraws};
    use proptest::prelude::*;

    const DRAWS: HostDraws = Draws { seed: &[7], position: &[0], stream: &[0], temperature: &[1.0] };

    /// One row of logits 0, in which a token won.
    fn message(tokens: Range<usize>) -> Message {
        let list = tokens.clone().map(|token| Ranked::new(0.0, token as u32)).collect();
        let mass = Mass { max: 0.0, sum: tokens.len() as f32, ..Mass::NOTHING };
        let best = Best { score: tokens.start as f32, rest: 0.0, logit: 0.0, token: Some(tokens.start as u32) };
        let size = tokens.len() as u64;
        let row = RowStatistics { masses: vec![mass], best: vec![best], list, size, spreads: Vec::new() };
        Message::new(tokens, 6, vec![row])
    }

    const TOKENS: Tokens = Tokens { first: 0, count: 3, vocab: 6, valid_vocab: 6 };

    struct Reader;

    impl Read for Reader {
        type Failure = Error;

        fn read(&mut self, _whole: Option<&[usize]>) -> Result<Vec<RowStatistics>> {
            Ok(message(TOKENS.range()).rows)
        }

        fn most_bytes(&self) -> usize {
            0
        }
    }

    fn merged(messages: Vec<Message>) -> Result<Samples> {
        let mut samples = Samples::new(1, 1, 0);
        let mut results = Results::new(samples.out(), 1, 1, 0)?;
        let plans = plans(&TOKENS, 1, Some(&DRAWS), None)?;
        let mut gather = |own: Vec<u8>| {
            assert_eq!(Message::from_bytes(&own), Ok(message(0..3)));
            messages.iter().map(Message::to_bytes).collect()
        };
        let mut shards = Shards::<_, Error>::new(Reader, &plans, 1, TOKENS, &mut gather);
        decide(&mut shards, &plans, &mut results, 6)?;
        Ok(samples)
    }

    #[test]
    fn parts_may_arrive_in_any_order() {
        let samples = merged(vec![message(4..6), message(0..3), message(3..4)]).unwrap();
        assert_eq!((samples.token[0], samples.kept[0], samples.lse[0]), (4, 6, crate::elementary::ln(6.0)));
    }

    #[test]
    fn what_no_shard_gives_is_refused() {
        let altered = |alter: fn(&mut Message)| {
            let mut second = message(3..6);
            alter(&mut second);
            vec![message(0..3), second]
        };
        let wrong: [(&str, Vec<Message>); 9] = [
            ("a gap", vec![message(0..3), message(4..6)]),
            ("an overlap", vec![message(0..3), message(2..6)]),
            ("no end", vec![message(0..3)]),
            ("another vocabulary", altered(|message| message.valid_vocab = 7)),
            ("another batch", altered(|message| message.rows.clear())),
            ("a draw too few", altered(|message| message.rows[0].best.clear())),
            ("a list too short", altered(|message| message.rows[0].list.clear())),
            ("a list out of order", altered(|message| message.rows[0].list.reverse())),
            ("a token of another part", altered(|message| message.rows[0].list[0] = Ranked::new(0.0, 0))),
        ];
        for (what, messages) in wrong {
            assert!(matches!(merged(messages), Err(Error::Argument { argument: "gather", .. })), "{what}");
        }
    }

    #[test]
    fn open_ranks_are_summed_and_known_ones_kept() {
        let bytes = |counts: [i64; 3]| counts.into_iter().flat_map(i64::to_le_bytes).collect::<Vec<u8>>();
        let mut ranks = [7, UNRANKED, -1];
        sum_ranks(&mut ranks, &[bytes([7, 100, -1]), bytes([7, 20, -1])]).unwrap();
        assert_eq!(ranks, [7, 120, -1]);
        for wrong in [vec![], vec![bytes([0; 3]), vec![0; 8]]] {
            let error = sum_ranks(&mut ranks, &wrong).unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "gather", .. }));
        }
    }

    #[test]
    fn another_version_is_refused() {
        let mut other = message(0..6);
        other.version += 1;
        assert!(Message::from_bytes(&other.to_bytes().unwrap()).is_err());
        assert_eq!(Message::from_bytes(&message(0..6).to_bytes().unwrap()), Ok(message(0..6)));
    }

    proptest! {
        #[test]
        fn damaged_bytes_do_no_harm(cut in 0usize..80, at in 0usize..80, flip in any::<u8>()) {
            let mut bytes = message(0..6).to_bytes().unwrap();
            bytes.truncate(bytes.len().saturating_sub(cut));
            let at = at % bytes.len().max(1);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= flip;
            }
            if let Ok(message) = Message::from_bytes(&bytes) {
                let _ = merged(vec![message]);
            }
        }
    }
}
