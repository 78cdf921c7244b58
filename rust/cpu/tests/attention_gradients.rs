//! The gradients of attention on every instruction set, which all give the same bits.

use farspan_cpu::dispatch::Machine;
use farspan_testing::attention::cases;
use farspan_testing::cpu::Cpu;
use farspan_testing::gradient::{Ask, Backend, assert_bits, upstream};
use farspan_testing::gradient_suite;
use proptest::prelude::*;

gradient_suite!(portable = Cpu::on(Machine::Portable));
gradient_suite!(avx2 = Cpu::on(Machine::Avx2));
gradient_suite!(avx512 = Cpu::on(Machine::Avx512));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_machine_gives_the_same_gradients(draft in cases()) {
        let case = draft.without_pages().build();
        let above = upstream(&case, 1);
        let expected = Cpu::best().run(&case, &above, &Ask::ALL, 0);
        for cpu in Cpu::all() {
            assert_bits(&expected, &cpu.run(&case, &above, &Ask::ALL, 0), cpu.name());
        }
    }
}
