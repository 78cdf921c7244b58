//! Sampler settings on every instruction set, which all give the same bits.

use farspan_cpu::dispatch::Machine;
use farspan_testing::cpu::Cpu;
use farspan_testing::sampler::{Backend, cases, everything};
use farspan_testing::sampler_suite;
use proptest::prelude::*;

sampler_suite!(portable = Cpu::on(Machine::Portable));
sampler_suite!(avx2 = Cpu::on(Machine::Avx2));
sampler_suite!(avx512 = Cpu::on(Machine::Avx512));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_machine_gives_the_same_bits(case in cases()) {
        let expected = everything(&Cpu::best().run(&case, 0), &case);
        for cpu in Cpu::all() {
            prop_assert_eq!(everything(&cpu.run(&case, 0), &case), expected.clone(), "{}", cpu.name());
        }
    }
}
