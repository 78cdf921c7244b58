//! What settings do to single logits, as bytes that the caller takes to the device.

use super::params::ChangesAt;
use crate::tensor::Tensor;
use farspan_core::sampler::Settings;

/// Biases, penalties, bans, masks and lists of the allowed, in device memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    pub(super) at: ChangesAt,
}

impl Changes {
    /// The same with a mask `[rows, words]` of int32 that lies on the device already: bit v % 32 of word v / 32 allows
    /// token v, words that are missing ban.
    pub fn with_mask(self, mask: Tensor<2>) -> Changes {
        let [rows, words] = mask.shape;
        let stride = if rows < 2 { 0 } else { mask.strides[0] };
        let at = ChangesAt { mask: mask.pointer, mask_stride: stride, mask_words: words as i64, ..self.at };
        Changes { at }
    }
}

/// The changes of a call's rows in one piece of memory.
#[derive(Clone, Debug)]
pub struct PackedChanges {
    bytes: Vec<u8>,
    /// Offsets in place of addresses; `None` where there is nothing.
    places: [Option<usize>; 6],
    mask_words: usize,
}

impl PackedChanges {
    /// Of settings that have been checked: biases, penalties and bans by token, lists of the allowed, the mask.
    pub fn new(settings: &Settings, rows: usize) -> PackedChanges {
        let mut packed = PackedChanges { bytes: Vec::new(), places: [None; 6], mask_words: 0 };
        let single: Vec<_> = (0..rows).map(|row| settings.changes(row)).collect();
        let allowed: Vec<_> = (0..rows).map(|row| settings.allowed(row).unwrap_or_default()).collect();
        if single.iter().any(|row| !row.is_empty()) {
            packed.places[0] = Some(packed.offsets(single.iter().map(Vec::len)));
            packed.places[1] = Some(packed.section(single.iter().flatten().flat_map(|(token, _)| token.to_le_bytes())));
            let change = single.iter().flatten().flat_map(|(_, change)| {
                let words = [
                    change.bias.to_bits(),
                    change.repetition.unwrap_or(1.0).to_bits(),
                    change.subtracted.to_bits(),
                    change.banned.into(),
                ];
                words.into_iter().flat_map(u32::to_le_bytes)
            });
            packed.places[2] = Some(packed.section(change));
        }
        if allowed.iter().any(|row| !row.is_empty()) {
            packed.places[3] = Some(packed.offsets(allowed.iter().map(Vec::len)));
            packed.places[4] = Some(packed.section(allowed.iter().flatten().flat_map(|token| token.to_le_bytes())));
        }
        if let Some(mask) = &settings.mask {
            packed.mask_words = mask.width;
            packed.places[5] = Some(packed.section(mask.words.iter().flat_map(|word| word.to_le_bytes())));
            if mask.words.is_empty() {
                packed.section([0; 16].into_iter()); // a mask without words bans all, so it needs an address too
            }
        }
        packed
    }

    /// What is to be copied to the device, to a multiple of 16 bytes. Empty where nothing changes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The changes, once the bytes are at `pointer`.
    pub fn at(&self, pointer: u64) -> Changes {
        let [offsets, tokens, changes, allowed_offsets, allowed_tokens, mask] =
            self.places.map(|place| place.map_or(0, |place| pointer + place as u64));
        let (mask_stride, mask_words) = (self.mask_words as i64, self.mask_words as i64);
        let at = ChangesAt { offsets, tokens, changes, allowed_offsets, allowed_tokens, mask, mask_stride, mask_words };
        Changes { at }
    }

    /// Appends a section and says where it begins.
    fn section(&mut self, bytes: impl Iterator<Item = u8>) -> usize {
        self.bytes.resize(self.bytes.len().next_multiple_of(16), 0);
        let start = self.bytes.len();
        self.bytes.extend(bytes);
        start
    }

    fn offsets(&mut self, lengths: impl Iterator<Item = usize>) -> usize {
        let ends = lengths.scan(0, |end, length| {
            *end += length as i64;
            Some(*end)
        });
        let offsets: Vec<i64> = std::iter::once(0).chain(ends).collect();
        self.section(offsets.into_iter().flat_map(i64::to_le_bytes))
    }
}
