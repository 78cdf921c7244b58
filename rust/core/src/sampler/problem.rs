//! The sampler settings of a whole call, one value per row, and their validation.

use super::changes::{Change, Lists, Penalties, changes};
use super::settings::{Cuts, Order};
use crate::error::{Error, Result};

/// One list of token ids per row: row r owns `ids[offsets[r]..offsets[r + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    /// All lists, one behind the other.
    pub ids: &'a [i64],
    /// `[rows + 1]`, from 0 to the number of ids, never falling.
    pub offsets: &'a [i64],
}

impl<'a> Ragged<'a> {
    fn check(&self, argument: &'static str, rows: usize, valid_vocab: usize) -> Result<()> {
        if self.offsets.len() != rows + 1 {
            let expected = format!("{} offsets for {rows} rows", rows + 1);
            return Err(Error::argument(argument, expected, format!("{} offsets", self.offsets.len())));
        }
        let ends = [self.offsets[0], self.offsets[rows]];
        if ends != [0, self.ids.len() as i64] {
            let expected = format!("offsets from 0 to {}, the number of ids", self.ids.len());
            return Err(Error::argument(argument, expected, format!("{} to {}", ends[0], ends[1])));
        }
        if let Some(row) = self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            return Err(Error::argument(argument, "offsets that never fall", format!("a fall in row {row}")));
        }
        match self.ids.iter().position(|&id| usize::try_from(id).map_or(true, |id| id >= valid_vocab)) {
            None => Ok(()),
            Some(at) => {
                let row = self.offsets.partition_point(|&offset| offset <= at as i64) - 1;
                let expected = format!("token ids from 0 to {valid_vocab} exclusive");
                Err(Error::argument(argument, expected, format!("{} in row {row}", self.ids[at])))
            }
        }
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        self.offsets[row] as usize..self.offsets[row + 1] as usize
    }

    /// The list of one row.
    pub fn row(&self, row: usize) -> &'a [i64] {
        &self.ids[self.range(row)]
    }

    fn tokens(&self, row: usize) -> Vec<u32> {
        self.row(row).iter().map(|&id| id as u32).collect()
    }
}

/// Packed words `[rows, words]`: bit `v % 32` of word `v / 32` allows token v; words that are missing ban.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    /// Row by row.
    pub words: &'a [i32],
    /// Words of one row.
    pub width: usize,
}

impl<'a> Mask<'a> {
    /// The words of one row.
    pub fn row(&self, row: usize) -> &'a [i32] {
        &self.words[row * self.width..(row + 1) * self.width]
    }
}

/// The largest list of most likely tokens that a draw reports.
pub const MAX_TOP: usize = 128;

/// That a list of the most likely tokens is neither too long nor longer than there are tokens.
pub fn check_top(top: usize, valid_vocab: usize) -> Result<()> {
    let most = MAX_TOP.min(valid_vocab);
    if top <= most {
        return Ok(());
    }
    Err(Error::argument("top", format!("0 to {most}: at most {MAX_TOP}, and no more than there are tokens"), top))
}

macro_rules! settings {
    (reals: $($real:ident),*; counts: $($count:ident >= $least:literal),*;) => {
        /// The settings of a call. Every slice has one entry per row.
        #[derive(Clone, Copy, Debug)]
        #[expect(missing_docs, reason = "the public arguments, documented at `Cuts`, `Penalties` and `Lists`")]
        pub struct Settings<'a> {
            pub order: Order,
            $(pub $real: &'a [f64],)*
            $(pub $count: &'a [i64],)*
            pub history: Option<Ragged<'a>>,
            pub prompt_lengths: Option<&'a [i64]>,
            pub logit_bias: Option<(Ragged<'a>, &'a [f32])>,
            pub banned: Option<Ragged<'a>>,
            pub allowed: Option<Ragged<'a>>,
            pub mask: Option<Mask<'a>>,
            pub top: usize,
            pub samples: usize,
        }

        impl<'a> Settings<'a> {
            /// The names of the real settings, in the order of a table of them.
            pub const REALS: &'static [&'static str] = &[$(stringify!($real)),*];
            /// The names of the whole-numbered settings, in the order of a table of them.
            pub const COUNTS: &'static [&'static str] = &[$(stringify!($count)),*];

            /// Settings without lists, of tables with a row for each name and a column for each of `rows`.
            pub fn of_tables(order: Order, reals: &'a [f64], counts: &'a [i64], rows: usize) -> Result<Settings<'a>> {
                let mut lines = lines("settings", reals, Self::REALS.len(), rows)?;
                $(let $real = lines.next().unwrap_or_default();)*
                let mut lines = self::lines("settings", counts, Self::COUNTS.len(), rows)?;
                $(let $count = lines.next().unwrap_or_default();)*
                Ok(Settings {
                    order,
                    $($real,)*
                    $($count,)*
                    history: None,
                    prompt_lengths: None,
                    logit_bias: None,
                    banned: None,
                    allowed: None,
                    mask: None,
                    top: 0,
                    samples: 1,
                })
            }

            fn reals(&self) -> impl Iterator<Item = (&'static str, &'a [f64])> {
                [$((stringify!($real), self.$real)),*].into_iter()
            }

            /// With the least value of each.
            fn counts(&self) -> impl Iterator<Item = (&'static str, &'a [i64], i64)> {
                [$((stringify!($count), self.$count, $least)),*].into_iter()
            }
        }
    };
}

settings! {
    reals: top_p, min_p, typical, epsilon, eta, top_h, top_n_sigma, xtc_probability, xtc_threshold, repetition_penalty,
        frequency_penalty, presence_penalty, dry_multiplier, dry_base;
    counts: top_k >= 0, min_keep >= 1, no_repeat_ngram >= 0, dry_allowed_length >= 0;
}

/// The lines of a table `[count, rows]`.
fn lines<'a, T>(
    argument: &'static str,
    table: &'a [T],
    count: usize,
    rows: usize,
) -> Result<impl Iterator<Item = &'a [T]>> {
    if count.checked_mul(rows) != Some(table.len()) {
        let expected = format!("{count} settings for each of {rows} rows");
        return Err(Error::argument(argument, expected, format!("{} numbers", table.len())));
    }
    Ok((0..count).map(move |line| &table[line * rows..(line + 1) * rows]))
}

impl<'a> Settings<'a> {
    /// That every setting has one value per row and lies in its range; `vocab` counts the padded tokens too.
    pub fn check(&self, rows: usize, vocab: usize, valid_vocab: usize) -> Result<()> {
        for (argument, values) in self.reals() {
            crate::unembed::check_rows(argument, rows, values.len())?;
            if let Some(row) = values.iter().position(|value| !value.is_finite()) {
                return Err(Error::argument(argument, "finite numbers", format!("{} in row {row}", values[row])));
            }
        }
        for (argument, values, least) in self.counts() {
            crate::unembed::check_rows(argument, rows, values.len())?;
            if let Some(row) = values.iter().position(|&value| value < least) {
                let expected = format!("numbers from {least} on");
                return Err(Error::argument(argument, expected, format!("{} in row {row}", values[row])));
            }
        }
        (0..rows).try_for_each(|row| self.cuts(row).check(row))?;
        self.check_penalties(rows)?;
        self.check_lists(rows, valid_vocab)?;
        self.check_mask(rows, vocab)?;
        check_top(self.top, valid_vocab)?;
        if self.samples == 0 {
            return Err(Error::argument("samples", "at least 1", 0));
        }
        Ok(())
    }

    fn check_penalties(&self, rows: usize) -> Result<()> {
        // A penalty meets the logits, which are float32; 0 has a meaning of its own.
        let held = [
            ("repetition_penalty", self.repetition_penalty, f32::from_bits(1)),
            ("frequency_penalty", self.frequency_penalty, 0.0),
            ("presence_penalty", self.presence_penalty, 0.0),
            ("dry_multiplier", self.dry_multiplier, 0.0),
            ("dry_base", self.dry_base, 0.0),
        ];
        for (argument, values, least) in held {
            let fits = |value: f64| (value as f32).is_finite() && (value <= 0.0 || value as f32 >= least);
            if let Some(row) = values.iter().position(|&value| !fits(value)) {
                let given = format!("{:?} in row {row}", values[row]);
                return Err(Error::argument(argument, "numbers that float32 can hold", given));
            }
        }
        let above = |argument, values: &[f64], least: f64, open: bool| {
            let wrong = values.iter().position(|&value| if open { value <= least } else { value < least });
            wrong.map_or(Ok(()), |row| {
                let expected = format!("numbers {} {least}", if open { "above" } else { "from" });
                Err(Error::argument(argument, expected, format!("{} in row {row}", values[row])))
            })
        };
        above("repetition_penalty", self.repetition_penalty, 0.0, true)?;
        above("dry_multiplier", self.dry_multiplier, 0.0, false)?;
        above("dry_base", self.dry_base, 1.0, false)?;
        if self.history.is_some() {
            return Ok(());
        }
        let used = [
            ("repetition_penalty", self.repetition_penalty, 1.0),
            ("frequency_penalty", self.frequency_penalty, 0.0),
            ("presence_penalty", self.presence_penalty, 0.0),
            ("dry_multiplier", self.dry_multiplier, 0.0),
        ];
        let named =
            used.iter().find(|(_, values, off)| values.iter().any(|value| value != off)).map(|(name, ..)| *name);
        let named = named.or(self.no_repeat_ngram.iter().any(|&n| n > 0).then_some("no_repeat_ngram"));
        match named {
            Some(argument) if rows > 0 => Err(Error::argument(argument, "history, over which it counts", "no history")),
            _ => Ok(()),
        }
    }

    fn check_lists(&self, rows: usize, valid_vocab: usize) -> Result<()> {
        let lists = [
            ("history", self.history),
            ("banned", self.banned),
            ("allowed", self.allowed),
            ("logit_bias", self.logit_bias.map(|(lists, _)| lists)),
        ];
        for (argument, lists) in lists {
            lists.map_or(Ok(()), |lists| lists.check(argument, rows, valid_vocab))?;
        }
        if let Some((lists, values)) = &self.logit_bias {
            if values.len() != lists.ids.len() {
                let expected = format!("{} values, one per id", lists.ids.len());
                return Err(Error::argument("logit_bias", expected, values.len()));
            }
            if let Some(wrong) = values.iter().find(|value| value.is_nan() || **value == f32::INFINITY) {
                return Err(Error::argument("logit_bias", "finite values or -inf", wrong));
            }
        }
        if let Some(lengths) = self.prompt_lengths {
            crate::unembed::check_rows("prompt_lengths", rows, lengths.len())?;
            for (row, &length) in lengths.iter().enumerate() {
                let most = self.history.map_or(0, |history| history.row(row).len());
                if usize::try_from(length).map_or(true, |length| length > most) {
                    let expected = format!("0 to {most}, the length of the row's history");
                    return Err(Error::argument("prompt_lengths", expected, format!("{length} in row {row}")));
                }
            }
        }
        Ok(())
    }

    fn check_mask(&self, rows: usize, vocab: usize) -> Result<()> {
        let words = vocab.div_ceil(32);
        match &self.mask {
            Some(mask) if mask.words.len() != rows * mask.width => {
                let given = format!("{} words of {} each", mask.words.len(), mask.width);
                Err(Error::argument("mask", format!("{rows} rows of words"), given))
            }
            Some(mask) if mask.width > words => {
                Err(Error::argument("mask", format!("at most {words} words a row, 32 tokens each"), mask.width))
            }
            _ => Ok(()),
        }
    }

    /// The cuts of one row.
    pub fn cuts(&self, row: usize) -> Cuts {
        Cuts {
            order: self.order,
            top_k: self.top_k[row] as usize,
            top_p: self.top_p[row],
            min_p: self.min_p[row],
            typical: self.typical[row],
            epsilon: self.epsilon[row],
            eta: self.eta[row],
            top_h: self.top_h[row],
            top_n_sigma: self.top_n_sigma[row],
            xtc_probability: self.xtc_probability[row],
            xtc_threshold: self.xtc_threshold[row],
            min_keep: self.min_keep[row] as usize,
        }
    }

    /// The changes of single logits of one row, by token.
    pub fn changes(&self, row: usize) -> Vec<(u32, Change)> {
        let tokens = |lists: Option<Ragged>| lists.map_or_else(Vec::new, |lists| lists.tokens(row));
        let (history, banned) = (tokens(self.history), tokens(self.banned));
        let bias_tokens = tokens(self.logit_bias.map(|(lists, _)| lists));
        let bias_values = self.logit_bias.map_or(&[][..], |(lists, values)| &values[lists.range(row)]);
        let lists = Lists {
            history: &history,
            prompt_length: self.prompt_lengths.map_or(0, |lengths| lengths[row] as usize),
            bias: (&bias_tokens, bias_values),
            banned: &banned,
        };
        let penalties = Penalties {
            repetition: self.repetition_penalty[row] as f32,
            frequency: self.frequency_penalty[row] as f32,
            presence: self.presence_penalty[row] as f32,
            no_repeat_ngram: self.no_repeat_ngram[row] as usize,
            dry_multiplier: self.dry_multiplier[row] as f32,
            dry_base: self.dry_base[row] as f32,
            dry_allowed_length: self.dry_allowed_length[row] as usize,
        };
        changes(&lists, &penalties)
    }

    /// The tokens to which one row is restricted, in order; `None` when it is not.
    pub fn allowed(&self, row: usize) -> Option<Vec<u32>> {
        let mut tokens = self.allowed.map(|lists| lists.tokens(row)).filter(|tokens| !tokens.is_empty())?;
        tokens.sort_unstable();
        Some(tokens)
    }
}
