//! What is read from machine code: right, and never more than an absence where the bytes are damaged.

mod support;

use farspan_cuda::cubin::{Resources, resources};
use farspan_cuda::nvrtc::Nvrtc;
use farspan_cuda::{probe, source};
use proptest::prelude::*;
use support::fake_nvrtc;

fn cubin() -> Vec<u8> {
    let program = source::program(&probe::variants()[0]);
    Nvrtc::open(fake_nvrtc()).unwrap().compile("probe", &program, "sm_90a").unwrap()
}

#[test]
fn attributes_are_read() {
    let code_bytes = source::program(&probe::variants()[0]).text.len() as u32;
    let expected = Resources { registers: 40, stack_bytes: 16, threads: 32, params_bytes: 24, code_bytes };
    assert_eq!(resources(&cubin()), Some(expected));
}

#[test]
fn a_part_of_a_file_has_no_attributes() {
    let whole = cubin();
    for length in 0..whole.len() {
        assert_eq!(resources(&whole[..length]), None, "the first {length} of {} bytes", whole.len());
    }
}

#[test]
fn the_largest_numbers_are_harmless() {
    let whole = cubin();
    for at in 0..whole.len() - 16 {
        let mut cubin = whole.clone();
        cubin[at..at + 16].fill(0xff);
        let _ = resources(&cubin);
    }
}

proptest! {
    #[test]
    fn damaged_files_are_harmless(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut cubin = cubin();
        for (at, byte) in damage {
            let at = at.index(cubin.len());
            cubin[at] = byte;
        }
        let _ = resources(&cubin);
    }

    #[test]
    fn other_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = resources(&[b"\x7fELF\x02\x01", &bytes[..]].concat());
    }
}
