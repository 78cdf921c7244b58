//! What the compiler wrote about a kernel into its machine code: an ELF file whose `.nv.info` sections are lists of
//! attributes. Read without trust: the bytes may come from a disk.

/// The needs of one compiled kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's local memory: registers that did not fit, or arrays whose index is unknown to the compiler.
    pub stack_bytes: u32,
    /// The most threads of a block that the compiler counted on; 0 where the kernel does not say.
    pub threads: u32,
    /// Bytes of the struct that the kernel takes.
    pub params_bytes: u32,
    /// Bytes of instructions.
    pub code_bytes: u32,
}

/// The attributes read here, by the numbers that the compiler gives them.
mod attribute {
    pub const MAX_THREADS: u8 = 0x05;
    pub const FRAME_SIZE: u8 = 0x11;
    pub const CBANK_PARAM_SIZE: u8 = 0x19;
    pub const REGCOUNT: u8 = 0x2f;
}

/// The form of an attribute that carries as many bytes as its header says; every other form is the header alone.
const SIZED: u8 = 4;

/// The needs of the only kernel in `cubin`; `None` when these are not such bytes.
pub fn resources(cubin: &[u8]) -> Option<Resources> {
    let sections = sections(cubin)?;
    let mut found = Resources::default();
    for (name, bytes) in sections {
        if name.starts_with(".text.") {
            found.code_bytes = found.code_bytes.max(bytes.len() as u32);
        } else if name == ".nv.info" || name.starts_with(".nv.info.") {
            read_attributes(bytes, &mut found)?;
        }
    }
    (found.code_bytes > 0).then_some(found)
}

fn read_attributes(mut bytes: &[u8], found: &mut Resources) -> Option<()> {
    while let Some((&[form, code, low, high], rest)) = bytes.split_first_chunk::<4>() {
        let short = u16::from_le_bytes([low, high]);
        let (value, rest) = if form == SIZED { rest.split_at_checked(short.into())? } else { (&[][..], rest) };
        let number = |at: usize| Some(u32::from_le_bytes(*value.get(at..)?.first_chunk()?));
        match code {
            attribute::MAX_THREADS => found.threads = number(0)?,
            // The symbol of the kernel comes before its number.
            attribute::REGCOUNT => found.registers = found.registers.max(number(4)?),
            attribute::FRAME_SIZE => found.stack_bytes = found.stack_bytes.max(number(4)?),
            attribute::CBANK_PARAM_SIZE => found.params_bytes = short.into(),
            _ => {}
        }
        bytes = rest;
    }
    Some(())
}

/// The named sections of a 64-bit little-endian ELF file.
fn sections(elf: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    const HEADER: usize = 64;
    const NOBITS: u64 = 8;
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = number(elf, 0x28, 8)? as usize;
    let count = number(elf, 0x3c, 2)? as usize;
    let names = number(elf, 0x3e, 2)? as usize;
    let header = |i: usize| elf.get(table..)?.get(i * HEADER..(i + 1) * HEADER);
    let content = |header: &[u8]| {
        let (start, size) = (number(header, 0x18, 8)? as usize, number(header, 0x20, 8)? as usize);
        // A section without content in the file, such as shared memory, has a size all the same.
        if number(header, 4, 4)? == NOBITS { Some((0, 0)) } else { Some((start, start.checked_add(size)?)) }
    };
    let (start, end) = content(header(names)?)?;
    let names = elf.get(start..end)?;
    (0..count)
        .map(|i| {
            let header = header(i)?;
            let name = names.get(number(header, 0, 4)? as usize..)?;
            let name = std::str::from_utf8(name.split(|&byte| byte == 0).next()?).ok()?;
            let (start, end) = content(header)?;
            Some((name, elf.get(start..end)?))
        })
        .collect()
}

fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(size)?)?;
    Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}
