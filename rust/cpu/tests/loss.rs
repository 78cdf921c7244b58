//! Losses over a vocabulary on every instruction set, which all give the same bits.

use farspan_cpu::dispatch::Machine;
use farspan_testing::cpu::Cpu;
use farspan_testing::loss_suite;

loss_suite!(portable = Cpu::on(Machine::Portable));
loss_suite!(avx2 = Cpu::on(Machine::Avx2));
loss_suite!(avx512 = Cpu::on(Machine::Avx512));
